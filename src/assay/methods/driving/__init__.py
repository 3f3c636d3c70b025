"""Methods of the area driving."""
