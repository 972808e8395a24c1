"""Stands in for torchvision where it is not installed: programs here use its Gaussian blur only."""

__version__ = "0"
