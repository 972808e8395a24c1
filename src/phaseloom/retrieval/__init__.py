"""Learned phase retrieval: networks that read the phase out of diffraction patterns."""
