"""Methods of the area shape."""
