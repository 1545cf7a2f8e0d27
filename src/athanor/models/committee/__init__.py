"""Committees: several models asked the same, for their mean and how far they disagree. Door: the code is beside it."""

from athanor.models.committee.wrapper import CommitteeModelWrapper

__all__ = ["CommitteeModelWrapper"]
