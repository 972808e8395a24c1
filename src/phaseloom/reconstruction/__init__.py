"""Ptychographic reconstruction: the recipe of a run, its protocol, and what is said of the result."""
