"""Studies of the area labels."""
