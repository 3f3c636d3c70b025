"""Methods of the area fusion."""
