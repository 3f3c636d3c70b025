"""Readers and simulators of images."""
