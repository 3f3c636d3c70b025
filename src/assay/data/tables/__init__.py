"""Readers and simulators of tables."""
