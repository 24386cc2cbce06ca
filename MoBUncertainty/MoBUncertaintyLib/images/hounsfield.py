"""Intensities of a CT, in Hounsfield units (HU)."""

AIR_HU = -1024.0

HOUNSFIELD_BELOW = -100.0
"""An image with voxels below this (air, fat) is taken to be in Hounsfield units; others have no such values."""
