"""What was measured: results read back, intervals, and pictures."""
