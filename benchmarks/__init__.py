"""Measurements of the project itself, its speed and its estimators: `python -m benchmarks NAME`."""
