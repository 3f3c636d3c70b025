"""Studies of the area detection."""
