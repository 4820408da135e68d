"""What evaluation knows of each world: which pairs count, when they are solved, and who sets the floors."""
