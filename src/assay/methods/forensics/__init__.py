"""Methods of the area forensics."""
