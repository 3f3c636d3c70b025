"""Studies of the area shape."""
