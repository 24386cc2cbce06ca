"""The logistic-normal distribution: mean and variance of sigma(t), t normal, in closed form, and back; no torch."""
