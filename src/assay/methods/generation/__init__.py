"""Methods of the area generation."""
