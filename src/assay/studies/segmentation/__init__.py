"""Studies of the area segmentation."""
