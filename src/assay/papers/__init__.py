"""Cards, the catalogue and digests."""
