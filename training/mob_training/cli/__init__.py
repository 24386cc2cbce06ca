"""`mob-training`: its commands read options and present, and import what is heavy when they run."""

from mob_training.cli.program import app, main

__all__ = ["app", "main"]
