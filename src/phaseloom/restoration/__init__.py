"""Dual-resolution restoration of images: networks, losses, pairs, training, application, evaluation."""
