"""What the papers invented, one file per paper."""
