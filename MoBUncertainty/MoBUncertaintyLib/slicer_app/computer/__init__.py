"""Which computer segments: this one, or another that ssh reaches."""
