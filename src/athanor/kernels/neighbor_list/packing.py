"""Three small integers in one: how the image of a neighbour is stored.

Ten bits each in two's complement, x lowest, so that a zero shift is the number 0.
"""

from __future__ import annotations

import torch

MAX_IMAGE = 511
"""Largest shift along one cell vector that a list can hold, either sign."""


def pack_images(images: torch.Tensor) -> torch.Tensor:
    """Pack integer shifts into one number each.

    Parameters
    ----------
    images
        int [..., 3], each from -512 to 511.

    Returns
    -------
    torch.Tensor
        int32 [...].
    """
    wide = images.to(torch.int32) & 1023
    return wide[..., 0] | (wide[..., 1] << 10) | (wide[..., 2] << 20)


def unpack_images(code: torch.Tensor) -> torch.Tensor:
    """Undo `pack_images`.

    Parameters
    ----------
    code
        int32 [...].

    Returns
    -------
    torch.Tensor
        int32 [..., 3].
    """
    wide = code.to(torch.int32)
    return torch.stack(((wide << 22) >> 22, (wide << 12) >> 22, (wide << 2) >> 22), dim=-1)
