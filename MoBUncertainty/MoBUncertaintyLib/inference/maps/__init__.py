"""Maps on the image's own grid: filled from the network's, and mixed of several models'."""
