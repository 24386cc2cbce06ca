"""Statements that hold for a stated fraction of cases, by comparison with cases whose truth is known.

The only condition is exchangeability: the case at hand must be one that could as well have been among those. NumPy
only, no images.
"""
