"""Methods of the area earth."""
