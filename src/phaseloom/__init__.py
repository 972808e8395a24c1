"""Phaseloom turns diffraction patterns into phase images."""
