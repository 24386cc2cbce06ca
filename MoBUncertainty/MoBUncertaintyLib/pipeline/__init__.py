"""From an image to results on disk and back: predict, review, cohorts, models of others, a site's calibration."""
