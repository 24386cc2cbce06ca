"""Labelled data sets, real and synthetic, in nnU-Net's layout."""

CHANNEL = "MRI"
"""Name of the images of a data set, unless stated: nnU-Net z-scores all but CT."""
