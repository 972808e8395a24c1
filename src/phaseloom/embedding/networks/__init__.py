"""Networks of autoencoders."""
