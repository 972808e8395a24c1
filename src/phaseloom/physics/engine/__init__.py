"""Waves that stay in the cache of a processor from the probe to the detector and back: numba's kernels."""
