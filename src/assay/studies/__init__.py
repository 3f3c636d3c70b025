"""The files that test the papers' claims, one per paper."""
