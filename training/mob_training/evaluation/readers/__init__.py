"""Simulated readers: what a review with this model is worth, action by action.

A reader knows the truth and acts on a whole prediction, through the product's own refinement and review. Painting
apart, nobody draws an outline. What each action leaves is scored, harm included.
"""
