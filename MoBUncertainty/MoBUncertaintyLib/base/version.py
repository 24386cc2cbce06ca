"""The version of MoB Uncertainty."""

__version__ = "1.0.0"
