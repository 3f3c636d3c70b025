"""Studies of the area explanation."""
