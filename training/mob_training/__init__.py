"""Train, evaluate and compare nnU-Net models with a covariance head."""
