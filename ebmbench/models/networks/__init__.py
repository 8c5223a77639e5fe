"""The networks f(x, y) of energies, a file for each. See `base` for what a network is."""
