"""Studies of the area adaptation."""
