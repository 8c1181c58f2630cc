"""Weights of the loss that make up for classes of unequal frequency."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from minilm.files.arrays import Floats, Integers


def weights_of_classes(labels: Integers, classes: int) -> Tensor:
    """Weights with which all classes that occur have the same share in the loss.

    Args:
        labels: (N,) the class of every labelled prediction in the training samples.
        classes: number of classes, C.

    Returns:
        (C,) float32: N / (K n) for a class that occurs n times, where K of the C classes occur.
        Their mean over the N predictions is 1. A class that does not occur has the weight 1.

    References: King and Zeng 2001; "balanced" in scikit-learn.
    """
    frequency = np.bincount(labels, minlength=classes)
    occurring = int((frequency > 0).sum())
    weights = np.ones(classes)
    weights[frequency > 0] = len(labels) / (occurring * frequency[frequency > 0])
    return torch.tensor(weights, dtype=torch.float32)


def weights_of_positives(labels: Floats) -> Tensor:
    """Weights with which positives have the same share in the loss of each label as negatives.

    Args:
        labels: (N, C) labels of the training samples: 1 = positive, 0 = negative.

    Returns:
        (C,) float32 factors of the positives' loss, as `pos_weight` of torch's BCEWithLogitsLoss:
        (N - n) / n for a label that n of N samples have. Where all have it, 1 / N, so that it is
        learned at all; where none has it, 1.
    """
    positive = labels.sum(0, dtype=np.float64)
    negative = np.maximum(len(labels) - positive, 1)
    weights = np.where(positive > 0, negative / np.maximum(positive, 1), 1.0)
    return torch.tensor(weights, dtype=torch.float32)
