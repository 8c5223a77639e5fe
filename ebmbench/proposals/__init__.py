"""The proposal distributions. See `base` for what a proposal is."""
