"""A training for little time: a model of one's own on a laptop, in an hour."""
