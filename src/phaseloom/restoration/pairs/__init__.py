"""Pairs of a degraded and a good image: where they come from and how they are cut."""
