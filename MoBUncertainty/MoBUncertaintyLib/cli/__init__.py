"""The command `mob-uncertainty`."""
