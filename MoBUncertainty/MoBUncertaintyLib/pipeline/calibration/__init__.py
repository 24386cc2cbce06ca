"""A site's own calibration: from signed-off reviews to a model for cases like these. Only writing it needs torch."""
