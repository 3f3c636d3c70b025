"""Methods of the area anomaly."""
