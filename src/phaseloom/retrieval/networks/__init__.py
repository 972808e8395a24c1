"""Networks that recover patches of the phase and stitch them."""
