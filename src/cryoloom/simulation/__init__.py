"""Simulated particle sets of known truth: structures, projections, nuisances, files."""
