"""Studies of the area vision_language."""
