"""The version of the package: imported by whatever writes it into a file."""

__version__ = "0.2.0"

__all__ = ["__version__"]
