"""Methods of the area retrieval."""
