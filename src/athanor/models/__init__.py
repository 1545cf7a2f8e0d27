"""Models: the interface, the wrappers, and the registry of names.

The names here are doors: a wrapper loads on first use, so nothing here needs the packages of the others.
"""

from athanor._doors import door

__getattr__, __dir__ = door(__name__)
