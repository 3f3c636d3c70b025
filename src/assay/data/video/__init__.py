"""Videos: readers of files and folders of frames, and simulated ones."""
