"""What the systems with networks share: layers, weight files, the trainer, model cards, curves."""
