"""Studies of the area imaging."""
