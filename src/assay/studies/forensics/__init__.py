"""Studies of the area forensics."""
