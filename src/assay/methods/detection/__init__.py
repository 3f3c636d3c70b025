"""Methods of the area detection."""
