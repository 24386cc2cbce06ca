"""What runs inside 3D Slicer: nodes, the worker's client, the review session and the panel's parts."""
