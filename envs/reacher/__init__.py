"""The two-link reacher."""
