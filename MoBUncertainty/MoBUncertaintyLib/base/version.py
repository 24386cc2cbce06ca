"""The version of MoB Uncertainty."""

__version__ = "0.1.0"
