"""Wave physics: pure functions of tensors, with no state, no files and no devices of their own."""

__all__ = ["detect", "fourier", "modes", "optics", "patches", "propagate", "scatter", "slices"]
