"""Pose methods and conformation methods, one file each."""
