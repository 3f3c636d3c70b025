"""Methods of the area adaptation."""
