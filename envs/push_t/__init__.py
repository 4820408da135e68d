"""The Push-T world."""
