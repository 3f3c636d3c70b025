"""Studies of the area geometry3d."""
