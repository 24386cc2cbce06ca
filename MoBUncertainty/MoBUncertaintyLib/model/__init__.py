"""Trained models as files: read safely, without torch."""
