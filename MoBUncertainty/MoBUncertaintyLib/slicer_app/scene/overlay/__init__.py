"""How the maps of a CT are shown: as the reader has chosen, and with which legends."""
