"""The network: nnU-Net's backbone, a covariance head, and the Gaussian over the logits that they give."""
