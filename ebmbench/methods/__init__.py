"""The training methods, a file for each family. See `base` for what a method is."""
