"""Training and evaluation of a run, and its directory."""
