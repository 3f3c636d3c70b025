"""Studies of the area earth."""
