"""Simulated 4D-STEM scans: specimens, microscopes, experiments, sets of samples."""
