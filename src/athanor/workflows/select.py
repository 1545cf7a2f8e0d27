"""`select`: frames worth labelling, out of runs, stores and files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from athanor._runtime import using_num_threads
from athanor.analysis.picking import Candidates, Pool
from athanor.data.fields import FIELDS
from athanor.dynamics.arguments import check_model
from athanor.dynamics.evaluate import compute_apart
from athanor.errors import InputError
from athanor.kernels import segment_max
from athanor.models.outputs import in_eval_mode
from athanor.neighbors.build import compute_neighbors
from athanor.workflows import settings
from athanor.workflows.build import build_model
from athanor.workflows.candidates import Source, blocks_of, sources_of
from athanor.workflows.chunks import default_max_atoms
from athanor.workflows.columns import data_frame
from athanor.workflows.evaluate import check_file
from athanor.workflows.plan import find_device, spec_of_call
from athanor.workflows.readable import count
from athanor.workflows.spec import CalculationSpec, ModelSpec
from athanor.workflows.stages import Count, type_of

if TYPE_CHECKING:
    from ase import Atoms

    from athanor.data.batch import Batch

_FEATURES = "node_embeddings"
_MOST_HELD = 4096
"""Candidates that are held at a time, unless many are to be chosen; beyond it, halves are chosen of parts."""
_HELD_FOR_EACH = 20
_NOTED = ("source", "frame", "system_id", "step", "time")
"""What a chosen structure says of where it is from."""


class SelectSpec(CalculationSpec):
    """What is to be chosen, and how."""

    n: Count = settings.MOST.field()
    by: Literal["farthest", "uncertainty"] = settings.BY.field()
    above: float | None = settings.ABOVE.field()
    below: float | None = settings.BELOW.field()
    field: str = settings.FIELD.field()
    spacing: type_of(settings.SPACING) = settings.SPACING.field()  # type: ignore[valid-type]
    pooling: Literal["mean", "max"] = settings.POOLING.field()


@dataclass(slots=True)
class Selection:
    """Frames that were chosen, in the order of choice: the first ones are the most worth labelling.

    Attributes
    ----------
    structures
        ASE atoms without energies and forces: what is to be labelled carries no labels of a model. Their ``info`` says
        where they are from, as `rows` do.
    rows
        The table, one dictionary for each: ``source`` (folder, store or file), ``frame`` (its row there), ``system``,
        ``system_id``, ``step``, ``time`` (fs), ``formula``, ``atoms``, the value it was chosen by, and ``distance``
        from those chosen before.
    seen
        Frames that there were.
    eligible
        Those among them with values within the bounds.
    """

    structures: list[Atoms] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0
    eligible: int = 0

    def __len__(self) -> int:
        return len(self.structures)

    def __repr__(self) -> str:
        return f"Selection({len(self)} of {count(self.seen, 'frame')}, {self.eligible} within bounds)"

    def to_pandas(self) -> Any:
        """Return the table as a pandas DataFrame.

        Raises
        ------
        OptionalDependencyError
            If pandas is not installed; the text names the command that installs it.
        """
        return data_frame(self.rows)


def select(
    source: Any,
    n: int = 20,
    *,
    by: str = "farthest",
    above: float | None = None,
    below: float | None = None,
    field: str = "max_force_deviation",
    spacing: float | str = 0.0,
    pooling: str = "mean",
    model: Any = None,
    known: Any = None,
    device: str | None = None,
    dtype: str | torch.dtype = "float64",
    threads: int | None = None,
    max_atoms: int | None = None,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> Selection:
    """Choose the frames of runs that are worth labelling: far from each other, or where a committee disagrees.

    ``"farthest"`` goes by learned features: each frame is the farthest from those before it, the first one from what is
    known or from the mean, so that few frames span all. ``"uncertainty"`` leaves only frames whose value lies above a
    bound; of these it takes the largest and then, if there are features, the farthest from those before, else the next
    largest.

    Parameters
    ----------
    source
        A results folder, a trajectory store or a file of structures; what `athanor.open` or a run returned; structures,
        as `athanor.relax` takes them, or a `Batch` of frames; or a list of these.
    n
        Most frames that are chosen.
    by
        ``"farthest"`` or ``"uncertainty"``.
    above, below
        Bounds of `field` of a frame that may be chosen, in its unit. Beyond some disagreement structures make no sense
        for labelling either.
    field
        What tells how uncertain a frame is: an output of the model with one number for each system.
    spacing
        Least time between two frames of one system, fs, or text such as ``"0.1 ps"``; for dynamics, as steps of a
        relaxation take no time.
    pooling
        A structure is described by the ``"mean"`` of the features of its atoms, or by the ``"max"`` of each, which a
        single odd atom moves.
    model
        As in `athanor.relax`; that of the first run by default. It computes features, and `field` where frames do not
        hold it; a committee gives the features of its first member.
    known
        What is labelled already, as `source`: nothing like it is chosen. Needs features.
    device, dtype, threads, max_atoms
        As in `athanor.relax`; `max_atoms` is how many are read at a time.
    out
        File for the structures, extended XYZ, which the code that labels reads.
    overwrite
        Replace `out`.

    Returns
    -------
    Selection
        The chosen structures with where they are from.

    Raises
    ------
    InputError
        If an argument makes no sense, there is nothing to choose from, no model has features, or the field, or there is
        a `spacing` and the frames have no time.
    StorageError
        If a store can not be read, or `out` can not be written.

    Notes
    -----
    The choice is the same each time. Memory does not grow with the number of frames but by a few numbers for each:
    beyond four thousand candidates, or twenty for each frame to choose, parts are chosen from first.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import molecule
    >>> molecules = [molecule(name) for name in ("H2O", "CH4", "CH4", "NH3")]
    >>> picked = athanor.select(molecules, 4, model="demo")
    >>> picked
    Selection(3 of 4 frames, 4 within bounds)
    >>> sorted(row["frame"] for row in picked.rows)
    [0, 1, 3]
    """
    arguments = {name: value for name, value in locals().items() if name not in ("source", "known")}
    with using_num_threads(threads):
        spec, made = spec_of_call(SelectSpec, arguments)
        return select_frames(spec, source, model=made, known=known, overwrite=overwrite)


def select_frames(
    spec: SelectSpec, source: Any, *, model: Any = None, known: Any = None, overwrite: bool = False
) -> Selection:
    """Choose frames as `spec` says; `spec.output` is a file, or None. See `select`."""
    if spec.output is not None:
        check_file(spec.output, overwrite=overwrite)
    work = _Selecting(spec, sources_of(source), model)
    selection = work.run(None if known is None else sources_of(known))
    if spec.output is not None:
        from athanor.io.structures import write_structures

        if not selection.structures:
            raise InputError(f"No frame was chosen, so `{spec.output}` was not written. {work.advice(selection)}")
        write_structures(spec.output, selection.structures)
    return selection


def _check_values(spec: SelectSpec) -> None:
    """Refuse a field that is no number of a frame, and bounds that nothing lies between."""
    row = FIELDS.get(spec.field)
    if row is not None and (row.level, row.shape) != ("system", (1,)):
        raise InputError(
            f"`field` is {spec.field!r}, which is no single number of a frame; choose one that is, such as "
            f"`max_force_deviation` or `energy_deviation`."
        )
    if spec.above is not None and spec.below is not None and spec.above >= spec.below:
        raise InputError(
            f"`above` is {spec.above:g} and `below` {spec.below:g}; nothing lies between them. Give a larger `below`."
        )


def _check_times(source: Source, rows: np.ndarray) -> None:
    """Refuse frames that are steps without time: at one time of a system all but one would be left out."""
    times: dict[Any, list[float]] = {}
    for origin in map(source.origin, rows.tolist()):
        if "time" in origin:
            times.setdefault(origin["system_id"], []).append(origin["time"])
    if any(len(found) > 1 for found in times.values()) and all(len(set(found)) == 1 for found in times.values()):
        raise InputError(
            f"`spacing` is a time between frames, and those of {source.label or 'each system'} have none: they are "
            f"steps of a relaxation. Leave `spacing` out, or keep fewer frames with `every`."
        )


class _Selecting:
    """One selection: reads blocks of frames, computes what they lack, and hands them to the pool."""

    def __init__(self, spec: SelectSpec, sources: Sequence[Source], model: Any) -> None:
        self._spec, self._sources, self._given = spec, sources, model
        self._device = find_device(spec.device, spec.dtype)
        self._built: Any = None
        self._groups: dict[tuple[int, Any], int] = {}
        self._by_value = spec.by == "uncertainty" or spec.above is not None or spec.below is not None
        _check_values(spec)

    def run(self, known: Sequence[Source] | None) -> Selection:
        """Go through all frames once, and choose."""
        spec = self._spec
        held = max(_MOST_HELD, _HELD_FOR_EACH * spec.n)
        features = None if known is None else self._features_of_all(known)
        pool, seen = Pool(held, spacing=spec.spacing, known=features), 0
        for number, source in enumerate(self._sources):
            rows = source.rows
            if spec.spacing:
                _check_times(source, rows)
            seen += len(rows)
            for block, values in self._eligible(source, rows):
                for candidates in self._candidates(number, source, block, values, known is not None):
                    pool.add(candidates)
        if not seen:
            raise InputError("There is no frame to choose from: the sources are empty.")
        chosen, distances = pool.choose(spec.n)
        if chosen is None or not len(chosen):
            return Selection(seen=seen, eligible=pool.seen)
        return self._selection(chosen, distances, seen, pool.seen)

    def advice(self, selection: Selection) -> str:
        """Say why nothing was chosen."""
        if not selection.eligible and self._by_value:
            return f"No `{self._spec.field}` lies within the bounds; change `above` or `below`."
        return "All frames are like what is known."

    # ------------------------------------------------------------------------------------------------- what there is

    def _eligible(self, source: Source, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield frames with values within the bounds, and those values; all at once where they need not be computed."""
        if not self._by_value:
            yield rows, np.full(len(rows), np.nan)
            return
        stored = source.numbers(self._spec.field, rows)
        if stored is not None and np.isfinite(stored).all():
            inside = self._inside(stored)
            yield rows[inside], stored[inside]
            return
        for block in blocks_of(source, rows, self._max_atoms):
            values = self._values_of(source.batch(block, self._spec.dtype))
            inside = self._inside(values)
            yield block[inside], values[inside]

    def _inside(self, values: np.ndarray) -> np.ndarray:
        spec = self._spec
        above = np.isfinite(values) if spec.above is None else values > spec.above
        return above if spec.below is None else above & (values <= spec.below)

    def _candidates(
        self, number: int, source: Source, rows: np.ndarray, values: np.ndarray, needs_features: bool
    ) -> Iterator[Candidates]:
        by_value = self._spec.by == "uncertainty"
        without = by_value and not needs_features and not self._has_features
        done = 0
        for block in [rows] if without else blocks_of(source, rows, self._max_atoms):
            part = values[done : done + len(block)]
            done += len(block)
            features = None if without else self._features_of(source.batch(block, self._spec.dtype))
            origins = [source.origin(int(row)) for row in block]
            groups = [self._group(number, origin, int(row)) for origin, row in zip(origins, block, strict=True)]
            candidates = Candidates(
                keys=np.stack([np.full(len(block), number), block], axis=1),
                values=part if by_value else np.full(len(block), np.nan),
                features=features,
                groups=np.array(groups, dtype=np.int64),
                times=np.array([origin.get("time", 0.0) for origin in origins]),
            )
            usable = np.ones(len(block), dtype=bool) if features is None else np.isfinite(features).all(axis=1)
            yield candidates.take(np.flatnonzero(usable))

    def _group(self, number: int, origin: dict[str, Any], row: int) -> int:
        """Return the number of the system that a frame is of; a structure of no run is a system of its own."""
        key = (number, origin.get("system_id", f"row {row}"))
        return self._groups.setdefault(key, len(self._groups))

    # ------------------------------------------------------------------------------------------------------ the model

    @property
    def _model(self) -> Any:
        """The model, built when it is first needed; None if there is none."""
        if self._built is None and self._model_spec is not None:
            self._built = build_model(self._model_spec)
        if self._built is None and self._given is not None:
            self._built = self._given
        if self._built is not None:
            check_model(self._built)
            if isinstance(self._built, torch.nn.Module):
                self._built.to(self._device)
        return self._built

    @property
    def _model_spec(self) -> ModelSpec | None:
        if self._given is not None:
            return None
        of_runs = next((source.model for source in self._sources if source.model), None)
        return self._spec.model or (None if of_runs is None else ModelSpec.model_validate(of_runs))

    @property
    def _has_features(self) -> bool:
        return self._model is not None and _FEATURES in self._model.embedding_shapes

    @property
    def _max_atoms(self) -> int:
        name = "" if self._model_spec is None else self._model_spec.name
        return self._spec.max_atoms or default_max_atoms(name, self._device)

    def _prepared(self, batch: Batch) -> Batch:
        batch = batch.without_pairs().to(self._device)
        if (config := self._model.model_config.neighbor_config) is not None:
            compute_neighbors(batch, config=config)
        return batch

    def _values_of(self, batch: Batch) -> np.ndarray:
        """Return the field of each frame of a batch."""
        name = self._spec.field
        if name in batch:
            stored = batch[name].double().flatten(1)
            if stored.shape[1] == 1 and bool(stored.isfinite().all()):
                return np.asarray(stored[:, 0].cpu().numpy())
        if self._model is None or name not in self._model.model_config.outputs:
            who = "no model is given" if self._model is None else f"{self._model.model_card.name} does not compute it"
            raise InputError(
                f"The frames hold no `{name}`, and {who}. Run dynamics with a committee, or pass one: "
                f"`model={{'name': 'committee', 'members': [...]}}`."
            )
        with in_eval_mode(self._model):
            values = compute_apart(self._model, self._prepared(batch), frozenset({name}))[name]
        return np.asarray(values.detach().double().reshape(len(batch)).cpu().numpy())

    def _features_of(self, batch: Batch) -> np.ndarray:
        """Return what describes each frame of a batch, [B, D]."""
        if _FEATURES not in batch:
            if not self._has_features:
                who = "No model is given" if self._model is None else f"{self._model.model_card.name} has none"
                raise InputError(
                    f"Farthest points are chosen by `{_FEATURES}`, which the frames do not hold. {who}: pass a model "
                    f'that has some, such as `model="chgnet"`.'
                )
            batch = self._prepared(batch)
            with torch.no_grad(), in_eval_mode(self._model):
                self._model.compute_embeddings(batch)
        return np.asarray(_pooled(batch[_FEATURES].detach().double(), batch, self._spec.pooling).cpu().numpy())

    def _features_of_all(self, sources: Sequence[Source]) -> np.ndarray:
        return np.concatenate(
            [
                self._features_of(source.batch(block, self._spec.dtype))
                for source in sources
                for block in blocks_of(source, source.rows, self._max_atoms)
            ]
        )

    # ---------------------------------------------------------------------------------------------------- what is told

    def _selection(self, chosen: Candidates, distances: np.ndarray, seen: int, eligible: int) -> Selection:
        """Read the chosen frames, and say of each where it is from."""
        selection = Selection([], [], seen, eligible)
        found: dict[tuple[int, int], Atoms] = {}
        for number in np.unique(chosen.keys[:, 0]):
            rows = chosen.keys[chosen.keys[:, 0] == number, 1]
            structures = self._sources[number].structures(rows)
            found |= {(int(number), int(row)): atoms for row, atoms in zip(rows, structures, strict=True)}
        for place, (number, row) in enumerate(chosen.keys.tolist()):
            source, atoms = self._sources[number], found[number, row]
            told = {"index": place, "source": source.label, "frame": row, **source.origin(row)}
            told |= {"formula": atoms.get_chemical_formula(), "atoms": len(atoms)}
            told |= _numbers({self._spec.field: chosen.values[place], "distance": distances[place]})
            noted = {name: told[name] for name in _NOTED if told.get(name, "") != ""}
            atoms.info |= {**noted, "name": told["system"], "selected_by": self._spec.by}
            selection.structures.append(atoms)
            selection.rows.append(told)
        return selection


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if np.isfinite(value)}


def _pooled(features: torch.Tensor, batch: Batch, pooling: str) -> torch.Tensor:
    """Return the mean over atoms of features [N, D], or the largest of each, [B, D]."""
    if pooling == "mean":
        sums = features.new_zeros((len(batch), features.shape[1])).index_add_(0, batch.batch_idx, features)
        return sums / batch.num_nodes_per_graph.to(features.dtype)[:, None]
    return torch.stack([segment_max(column.contiguous(), batch.batch_ptr) for column in features.unbind(1)], dim=1)
