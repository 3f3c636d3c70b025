"""Volumes with their place in space: files, the MNI brain, simulated ultrasound, landmarks."""
