"""The core of MoB Uncertainty: covariance models on nnU-Net, their inference, and the review of doubt.

Nothing is imported here, so that a module which needs no torch (regions, scene, review) can be imported without it.
"""

__version__ = "0.1.0"
