"""Readers of the files of detectors and microscopes: the layouts are stated at the top of each module."""
