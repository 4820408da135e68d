"""The two-room world."""
