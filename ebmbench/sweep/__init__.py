"""Sweeps: many runs, planned, submitted and watched."""
