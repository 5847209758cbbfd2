"""The head that the LAION aesthetic predictor and ImageReward put on an embedding."""

from __future__ import annotations

from torch import nn


def linear_head(width: int) -> nn.Sequential:
    """embeddings[B, width] -> scores[B, 1]: five linear layers, with nothing between them.

    Dropout, which does nothing once trained, keeps the published numbering of the layers: 0, 2, 4,
    6, 7.
    """
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(),
        nn.Linear(1024, 128),
        nn.Dropout(),
        nn.Linear(128, 64),
        nn.Dropout(),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )
