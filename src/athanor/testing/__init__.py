"""Contract kits that anybody can run on a model, an engine or a sink of their own, and small systems to run them on."""

from athanor._doors import door

__getattr__, __dir__ = door(__name__)
