"""Whole pickles that may be loaded without being trusted: files that packages ship, by what stands in them.

Loading one runs the code that it names. These do nothing but build a network: each was read, instruction by
instruction, with `pickletools`.
"""

from __future__ import annotations

KNOWN_PICKLES: dict[str, str] = {
    "b5145564911ff983ed076ccb2bca5ce63454b74c9c8291092695463f1e6732be": "so3krates-torch: pretrained/so3lr/so3lr.model",
}
"""SHA-256 of a file -> package and name of it."""
