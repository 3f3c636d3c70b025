"""Methods of the area explanation."""
