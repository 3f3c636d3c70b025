"""Methods of the area geometry3d."""
