"""4D-STEM autoencoders: patterns encoded into a few latents, and what can be seen in these."""
