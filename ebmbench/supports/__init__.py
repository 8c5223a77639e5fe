"""The supports: which values a target can have. See `base` for what a support is."""
