"""Benchmarks of the project's own speed: `python -m ebmbench.bench [one_d|pooling|sweep]`."""
