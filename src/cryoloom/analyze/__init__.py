"""The space of conformations: its axes, density, clusters and ways through it."""
