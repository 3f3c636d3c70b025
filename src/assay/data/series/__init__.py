"""Readers and simulators of sensor series."""
