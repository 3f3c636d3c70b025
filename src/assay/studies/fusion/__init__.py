"""Studies of the area fusion."""
