"""Pose methods; every one of them returns a `PosePosterior`."""
