"""Recalibrate a model with the user's own reviews: the dialog."""
