"""Digests: read from files and feeds, keep in a store, search, write back."""
