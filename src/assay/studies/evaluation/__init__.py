"""Studies of the area evaluation."""
