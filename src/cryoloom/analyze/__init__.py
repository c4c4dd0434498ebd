"""Analysis of the latent space: principal axes, density, clusters and trajectories."""
