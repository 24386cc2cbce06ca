"""The Gaussian over the logits, samples of it, and moments of the probability: of NumPy's arrays and of torch's."""
