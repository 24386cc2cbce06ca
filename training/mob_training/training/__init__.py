"""The two stages of a training, and what they minimise."""
