"""Neighbour lists: configuration, building, filtering and keeping them complete while atoms move.

The names here are doors: an engine needs no more than `athanor.neighbors.skin`, so the rest loads on first use.
"""

from athanor._doors import door

__getattr__, __dir__ = door(__name__)
