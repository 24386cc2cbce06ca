"""From an image and a network to probability and variance in the image's own geometry."""
