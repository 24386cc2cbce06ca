"""The module's panel, one file for each section."""
