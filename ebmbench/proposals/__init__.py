"""The proposal distributions. See `core.proposal` for what a proposal is."""
