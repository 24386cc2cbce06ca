"""Clicks in the slice views that say what is organ and what is not: mouse and keys, marks, and what they changed."""
