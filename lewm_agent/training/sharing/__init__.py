"""One training that several processes share, each on a device of its own."""
