"""A prediction in Slicer's scene: nodes, maps, segments, surface and views."""
