"""Readers of lidar and other point data, with their calibrations."""
