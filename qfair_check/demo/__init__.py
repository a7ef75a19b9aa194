"""The embedded demo: a small network for handwritten digits, and held-out digits."""
