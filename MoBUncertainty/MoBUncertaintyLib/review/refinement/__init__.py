"""From a prediction and a reader's clicks to a refined prediction; needs no torch, so that it runs inside Slicer."""
