"""One file per verb, read top to bottom like a protocol of the laboratory."""

__all__ = ["demo", "reconstruct", "start"]
