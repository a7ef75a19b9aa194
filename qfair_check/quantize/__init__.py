"""A model becomes a new model whose weights lie on a grid."""
