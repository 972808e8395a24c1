"""Doors for people who come from other programs: their files and their names for our work."""

__all__ = ["cdtools", "ptyrad"]
