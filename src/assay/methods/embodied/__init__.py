"""Methods of the area embodied."""
