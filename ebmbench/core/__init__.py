"""The mathematics that all share: energies, random numbers, Langevin dynamics; settings and the registry."""
