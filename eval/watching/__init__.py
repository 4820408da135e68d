"""What an agent does and expects, as pictures."""
