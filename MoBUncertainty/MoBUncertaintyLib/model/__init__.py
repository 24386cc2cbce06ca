"""Trained models as files: read with suspicion, without torch."""
