"""Door: the hooks that measure a run at the address where scripts import them from."""

from athanor._doors import door

__getattr__, __dir__ = door(__name__)
