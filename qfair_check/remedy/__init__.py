"""Training that makes a quantized model fairer: its parts, each usable alone."""
