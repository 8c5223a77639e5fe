"""1D regression: two laws that are known exactly, and a small network."""
