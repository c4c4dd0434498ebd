"""Calibration of the verdict: many small runs of known truth, their evidence kept, thresholds judged against it."""
