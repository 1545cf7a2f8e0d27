"""Structures, one by one (`AtomicData`) and in batches (`Batch`).

The field table is in `fields`, the stored pair list in `pair_list`, conversion from and to other programs in `convert`,
kinetic energy, temperature and the like in `observables`.
"""

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch

__all__ = ["AtomicData", "Batch"]
