"""Labelled data sets, real and synthetic, in nnU-Net's layout."""
