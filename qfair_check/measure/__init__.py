"""A model and grouped data become an audit."""
