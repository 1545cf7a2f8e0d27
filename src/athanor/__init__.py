"""athanor: batched atomistic simulation with any interatomic potential.

The names here are doors: nothing loads before its first use, so ``import athanor`` costs next to nothing.
"""

from athanor._doors import door

__version__ = "0.1.0.dev0"

__getattr__, __dir__ = door(__name__)
