"""Methods of the area labels."""
