"""Methods of the area segmentation."""
