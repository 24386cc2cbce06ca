"""The core of MoB Uncertainty: covariance models on nnU-Net, their inference, and the review of doubt.

Nothing is imported here, so that a module which needs no torch (regions, review, app) can be imported without it.
"""

__version__ = "0.1.0"
