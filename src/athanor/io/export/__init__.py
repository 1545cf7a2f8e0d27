"""Frames of a trajectory, written as files of other programs: `formats` is the table, each other module a way to write.

A writer is given a place, the frames as ASE atoms, one after the other, and what is known of them beforehand. It holds
some frames at a time, never all of them.
"""
