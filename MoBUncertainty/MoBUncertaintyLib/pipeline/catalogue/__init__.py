"""Catalogues of models: list, install, remove and publish. Needs no torch."""
