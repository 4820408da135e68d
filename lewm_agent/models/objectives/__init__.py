"""What a world model is trained on, one file per objective; others are added with :func:`registry.register`."""
