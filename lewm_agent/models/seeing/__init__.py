"""What an encoder is made of, and the looks that it is trained in."""
