"""Outlines in the slice views that are neither an organ's nor a region's."""
