"""Studies of the area retrieval."""
