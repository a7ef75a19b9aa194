"""The demo's network."""

from torch import nn


def digits_cnn() -> nn.Module:
    """Return an untrained network from 8x8 grey images, shape (samples, 1, 8, 8), to ten logits."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
