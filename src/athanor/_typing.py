"""Type aliases that wrappers name in their signatures."""

from __future__ import annotations

from collections import OrderedDict

import torch

ModelOutputs = OrderedDict[str, torch.Tensor | None]
"""What a model returns: quantity -> tensor, ``None`` for what it did not compute."""
