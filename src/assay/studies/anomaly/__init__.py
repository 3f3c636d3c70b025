"""Studies of the area anomaly."""
