"""Teaching a trained encoder other looks."""
