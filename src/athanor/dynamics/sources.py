"""Where a sampler gets its systems from: data sets, lists, batches, stores, folders and files, streams without an end.

What has a length is known by numbers, and read when it is wanted; of a stream the next structure is all that is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from athanor.data.atomic_data import AtomicData
from athanor.data.batch import Batch
from athanor.dynamics.admission import expected_neighbors
from athanor.errors import ContractError, InputError

DATASET = ("__len__", "__getitem__", "get_metadata")
"""Members of a data set of structures."""
_OF_A_RUN = ("system_id", "status", "stage_step", "failure_code", "failure_step")
"""What a frame says of the run that wrote it, and not of the structure."""


class Size(NamedTuple):
    """Atoms and pairs of one system."""

    atoms: int
    edges: int


class Numbered:
    """Structures that are known by their number.

    Parameters
    ----------
    count
        How many there are.
    size_of
        Number -> atoms and pairs.
    load
        Number -> structure.
    name_of
        Number -> what it is called in messages; without one it is called by its number.
    """

    def __init__(
        self,
        count: int,
        size_of: Callable[[int], tuple[int, int]],
        load: Callable[[int], Any],
        name_of: Callable[[int], str] | None = None,
    ) -> None:
        self.count, self._size_of, self._load, self._name_of = count, size_of, load, name_of
        self._sizes: dict[int, Size] = {}

    def size_of(self, number: int) -> Size:
        """Return the size of a structure; it is looked at once."""
        if number not in self._sizes:
            atoms, edges = self._size_of(number)
            self._sizes[number] = Size(int(atoms), int(edges))
        return self._sizes[number]

    def load(self, number: int) -> AtomicData:
        """Return a structure."""
        return as_structure(self._load(number))

    def name_of(self, number: int) -> str:
        """Return what a structure is called."""
        return f"sample {number}" if self._name_of is None else self._name_of(number)


class Stream:
    """Structures that come one after the other.

    Parameters
    ----------
    items
        Structures, batches of them, ASE atoms, or None: nothing for the moment.
    dtype
        Of the positions of ASE atoms.
    """

    def __init__(self, items: Iterable[Any], dtype: torch.dtype | None) -> None:
        self._items, self._dtype = iter(items), dtype
        self._waiting: Iterator[Any] = iter(())
        self.has_ended = False

    def next(self) -> Any:
        """Return the next item that is no batch, as it comes; None if there is none for the moment, or no more.

        Whatever the stream raises is raised, and ends it.
        """
        while True:
            for item in self._waiting:
                return item
            try:
                item = next(self._items)
            except StopIteration:
                self.has_ended = True
                return None
            except BaseException:
                self.has_ended = True
                raise
            if not isinstance(item, Batch):
                return item
            self._waiting = iter(item.to_data_list())

    def structure(self, item: Any) -> AtomicData:
        """Return what an item is."""
        return as_structure(item, self._dtype)


def as_structure(item: Any, dtype: torch.dtype | None = None) -> AtomicData:
    """Return the structure that an item of a source is: itself, the first of ``(structure, metadata)``, or ASE atoms.

    Raises
    ------
    ContractError
        If it is something else.
    """
    if isinstance(item, tuple) and item:
        item = item[0]
    if isinstance(item, AtomicData):
        return item
    if hasattr(item, "get_positions") and hasattr(item, "get_atomic_numbers"):
        return AtomicData.from_atoms(item, dtype=dtype or torch.float32)
    raise ContractError(f"it is a {type(item).__name__}, and not AtomicData")


def size_of_structure(data: AtomicData, cutoff: float | None) -> Size:
    """Return atoms and pairs of a structure; without pairs of its own those that are expected within `cutoff`, Å."""
    edges = data.num_edges
    if not edges and cutoff is not None and data.num_nodes:
        expected = expected_neighbors(Batch.from_data_list([data]), cutoff)
        edges = int(torch.nan_to_num(expected, 0.0).clamp(max=2**31)[0] * data.num_nodes)
    return Size(data.num_nodes, edges)


def open_source(dataset: Any, dtype: torch.dtype | None, cutoff: float | None) -> Numbered | Stream:
    """Return what to get systems from.

    Raises
    ------
    ContractError
        A `TypeError`: if it is no source of structures, naming what it lacks.
    InputError
        If a path leads to nothing.
    """
    if isinstance(dataset, Numbered | Stream):
        return dataset
    if isinstance(dataset, str | os.PathLike):
        return _of_path(os.path.expanduser(os.fspath(dataset)), dtype, cutoff)
    if all(hasattr(dataset, name) for name in DATASET):
        return Numbered(len(dataset), dataset.get_metadata, dataset.__getitem__)
    if hasattr(dataset, "read_rows") and hasattr(dataset, "num_atoms"):
        return _of_store(dataset)
    if hasattr(dataset, "write") and callable(getattr(dataset, "read", None)):
        return _of_list([start_of(data) for data in dataset.read().to_data_list()], dtype, cutoff)
    if isinstance(dataset, Batch):
        return _of_list(dataset.to_data_list(), dtype, cutoff)
    if isinstance(dataset, Sequence):
        return _of_list(dataset, dtype, cutoff)
    if isinstance(dataset, Iterable) and not isinstance(dataset, AtomicData):
        return Stream(dataset, dtype)
    missing = next(name for name in DATASET if not hasattr(dataset, name) or isinstance(dataset, AtomicData))
    raise ContractError(
        f"`dataset` is a {type(dataset).__name__} without `{missing}`. Pass a data set (`__len__`, `__getitem__`, "
        f"`get_metadata`), a list, a Batch, a generator of structures, or the path of a store or of a folder."
    )


def _of_list(items: Sequence[Any], dtype: torch.dtype | None, cutoff: float | None) -> Numbered:
    flat = [one for item in items for one in (item.to_data_list() if isinstance(item, Batch) else [item])]

    def load(number: int) -> AtomicData:
        return as_structure(flat[number], dtype)

    return Numbered(len(flat), lambda number: size_of_structure(load(number), cutoff), load)


def _of_store(reader: Any) -> Numbered:
    """Every row is a system of its own, whatever run it comes from."""
    atoms = reader.num_atoms

    def load(number: int) -> AtomicData:
        return start_of(reader.read_rows([number]).get_data(0))

    return Numbered(len(reader), lambda number: (atoms[number], 0), load, lambda number: f"frame {number}")


def start_of(data: AtomicData) -> AtomicData:
    """Return a frame as a structure to start from: without what it says of its run."""
    result = data.clone()
    for name in _OF_A_RUN:
        if name in result:
            delattr(result, name)
    return result


def _of_path(path: str, dtype: torch.dtype | None, cutoff: float | None) -> Numbered:
    from athanor.io.structures import find_structures

    if not os.path.isdir(path):
        found = find_structures(path)
    elif (store := _store_in(path)) is not None:
        from athanor.io.trajectory import TrajectoryReader

        return _of_store(TrajectoryReader(store))
    else:
        files = sorted(str(entry) for entry in Path(path).iterdir() if entry.is_file() and entry.name[0] != ".")
        found = find_structures(files)
        if not found:
            raise InputError(f"`{path}` holds no files. Pass a folder with structure files, or the path of a store.")

    def load(number: int) -> AtomicData:
        if found[number].problem:
            raise InputError(found[number].problem)
        return as_structure(found[number].atoms, dtype)

    def size_of(number: int) -> Size:
        return size_of_structure(load(number), cutoff) if cutoff else Size(len(found[number].atoms), 0)

    return Numbered(len(found), size_of, load, partial(_name_of_file, found))


def _name_of_file(found: Sequence[Any], number: int) -> str:
    return f"`{found[number].name}` of `{found[number].file}`"


def _store_in(folder: str) -> str | None:
    """Return the store that a folder is, or that a results folder holds."""
    for path in (folder, os.path.join(folder, "trajectory.zarr")):
        if os.path.exists(os.path.join(path, "format.json")):
            return path
    return None
