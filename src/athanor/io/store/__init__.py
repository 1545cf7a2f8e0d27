"""Trajectory stores, format version 1: every acknowledged frame survives, every damage is told.

`layout` says what lies where, `writer` in which order it gets there, `reader` reads what one commit counts, `medium`
reaches the bytes.
"""
