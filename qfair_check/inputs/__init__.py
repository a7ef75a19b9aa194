"""A file or an object becomes a model, or grouped data."""
