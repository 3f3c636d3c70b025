"""Methods of the area imaging."""
