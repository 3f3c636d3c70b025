"""Methods of the area vision_language."""
