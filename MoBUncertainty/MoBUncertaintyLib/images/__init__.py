"""Images from files: found, checked and read."""
