"""Readers of real data sets and simulators, by modality."""
