"""What intensities of a CT mean, in Hounsfield units (HU)."""

AIR_HU = -1024.0

HOUNSFIELD_BELOW = -100.0
"""With voxels below this (air, fat) an image is in Hounsfield units: others have no negative values of that size."""
