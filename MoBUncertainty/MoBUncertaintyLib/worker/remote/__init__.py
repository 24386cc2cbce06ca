"""A worker on another computer, which ssh starts: nothing listens, and no file system is shared."""
