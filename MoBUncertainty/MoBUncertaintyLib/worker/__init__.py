"""The process that computes for Slicer, and the protocol that it speaks."""
