"""Simulated particle sets with known truth: structures, projections, optics and noise, files."""
