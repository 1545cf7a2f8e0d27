"""Checkpoints on disk: a tree of plain values and tensors, written as a whole or not at all, and verified when read."""

from athanor.io.checkpoint.folder import CheckpointFolder, LoadedTree

__all__ = ["CheckpointFolder", "LoadedTree"]
