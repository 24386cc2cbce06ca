"""A trained model on held-out cases, and its scores."""
