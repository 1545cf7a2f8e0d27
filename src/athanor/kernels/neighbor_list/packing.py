"""Three small integers in one: how the image of a neighbour is stored.

Two bits each in an int8, for shifts of at most 1 as most lists have them, or ten bits each in an int32, in two's
complement, x lowest, so that a zero shift is the number 0.
"""

from __future__ import annotations

import torch

from athanor.errors import InputError

MAX_IMAGE = 511
"""Largest shift along one cell vector that a list can hold, either sign."""

BITS = {torch.int8: 2, torch.int32: 10}
"""Bits of one shift, by the type of the packed number."""


class NarrowImagesError(InputError):
    """Shifts of more than 1 do not fit in an int8; pass int32 images."""


def pack_images(images: torch.Tensor, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Pack integer shifts into one number each.

    Parameters
    ----------
    images
        int [..., 3], each from -512 to 511, or from -1 to 1.
    dtype
        int32, or int8 for the smaller range.

    Returns
    -------
    torch.Tensor
        [...] of that type.

    Raises
    ------
    NarrowImagesError
        If a shift is too large for an int8.
    """
    bits = BITS[dtype]
    if dtype == torch.int8 and bool((images.abs() > 1).any()):
        raise NarrowImagesError("Images are more than 1 cell away; pack them as torch.int32.")
    wide = images.to(torch.int32) & ((1 << bits) - 1)
    return (wide[..., 0] | (wide[..., 1] << bits) | (wide[..., 2] << 2 * bits)).to(dtype)


def unpack_images(code: torch.Tensor) -> torch.Tensor:
    """Undo `pack_images`.

    Parameters
    ----------
    code
        int32 or int8 [...].

    Returns
    -------
    torch.Tensor
        int32 [..., 3].
    """
    bits = BITS[code.dtype]
    wide = code.to(torch.int32)
    return torch.stack([(wide << 32 - bits * (axis + 1)) >> 32 - bits for axis in range(3)], dim=-1)
