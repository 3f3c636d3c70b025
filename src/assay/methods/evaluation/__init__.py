"""Methods of the area evaluation."""
