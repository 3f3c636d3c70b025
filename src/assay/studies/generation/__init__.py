"""Studies of the area generation."""
