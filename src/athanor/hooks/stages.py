"""Every stage at which a hook may run."""

from __future__ import annotations

from enum import Enum


class DynamicsStage(Enum):
    """Places in one step of an engine, in the order in which they are passed."""

    __hash__ = object.__hash__  # an Enum's own is Python code, and the step looks stages up a dozen times

    BEFORE_STEP = 0
    BEFORE_PRE_UPDATE = 1
    AFTER_PRE_UPDATE = 2
    BEFORE_COMPUTE = 3
    AFTER_COMPUTE = 4
    BEFORE_POST_UPDATE = 5
    AFTER_POST_UPDATE = 6
    AFTER_STEP = 7
    ON_CONVERGE = 8


HookStageEnum = DynamicsStage
"""Older name of `DynamicsStage`; the same object."""
