"""Trajectory stores of format version 0: read, no longer written."""
