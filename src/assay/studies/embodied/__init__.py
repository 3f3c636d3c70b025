"""Studies of the area embodied."""
