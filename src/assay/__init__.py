"""Assay runs papers: a method, a study that tests its claim, and an `apply` for your own files."""

__version__ = "0.1.0"
