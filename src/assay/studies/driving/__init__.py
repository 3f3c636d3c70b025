"""Studies of the area driving."""
