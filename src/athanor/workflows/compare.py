"""`compare`: how far two models, or a model and its reference, differ on the same systems."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from athanor.analysis import displacements, element_shifts, order_of_atoms, principal_strains
from athanor.data.elements import SYMBOLS
from athanor.errors import InputError
from athanor.units import GPa
from athanor.workflows.columns import ANGLES, cell_columns, data_frame
from athanor.workflows.deviations import QUANTITIES, Deviation, Pair, cell_differences, columns_of, deviation_of
from athanor.workflows.matching import SAME_PLACE, Matching, match
from athanor.workflows.readable import count
from athanor.workflows.sides import Side, configuration_of, side_of

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.figure import Figure

    from athanor.io.structures import Structure

_MOST_TOLD = 3
"""Names that a note gives."""


@dataclass(slots=True)
class Comparison:
    """How far the first side is from the second, the reference; every difference is first minus second.

    Attributes
    ----------
    names
        What the two sides are called.
    rows
        The table, one dictionary for each system that both have, in the order of the first. `energy_difference` and
        `energy_shifted` (what is left when `shifts` are taken off) are in eV/atom, `forces_mae`, `forces_rmse` (of
        components) and `forces_worst` (of the vector of one atom, `forces_worst_atom`) in eV/Å, `stress_mae_GPa` in
        GPa, `displacement` (root mean square over atoms) and `displacement_worst` in Å, `strain_percent` (the largest
        along a principal axis), `volume_percent`, differences of lengths and angles in Å and degrees. Of several
        frames they are means, and the worst of all.
    figures
        Quantity -> its `Deviation` over all systems; those that both sides have.
    shifts
        Element -> energy in eV by which the two count it differently, fitted by least squares; empty if there are too
        few systems to tell.
    notes
        What was left out, and why, as sentences.
    pairs
        What was compared, structure by structure.
    """

    names: tuple[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, Deviation] = field(default_factory=dict)
    shifts: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)

    def to_pandas(self) -> Any:
        """Return the table as a pandas DataFrame, one row for each system.

        Raises
        ------
        OptionalDependencyError
            If pandas is not installed; the text names the command that installs it.
        """
        return data_frame(self.rows)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw one side against the other, see `athanor.workflows.plot_comparison.plot_comparisons`."""
        from athanor.workflows.plot_comparison import plot_comparisons

        return plot_comparisons([self], path)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        told = "".join(f"; {name} {each.mae:.3g} {each.unit}" for name, each in self.figures.items())
        return f"Comparison({self.names[0]} minus {self.names[1]}: {count(len(self), 'system')}{told})"


def compare(
    first: Any,
    second: Any,
    *,
    frames: bool = False,
    names: Sequence[str] = ("", ""),
    energy_key: str = "energy",
    forces_key: str = "forces",
) -> Comparison:
    """Compare energies, forces, cells and structures of the systems that two runs, evaluations or files have in common.

    Systems are matched by where their atoms are, by name, and by what they are made of. Forces and stress are compared
    where both sides have the atoms at the same places; after relaxations by two models, structures are what differs.

    Parameters
    ----------
    first, second
        A results folder, a file of structures with energies and forces (labels of a reference, results of an
        evaluation), what `evaluate`, `relax`, `md` or `open` returned, ASE atoms or a list of them. The second is the
        reference that the first is held against.
    frames
        Compare the frames of trajectories that both sides have at the same step, instead of how the runs ended.
    names
        What to call the two.
    energy_key, forces_key
        Where the labels of the second side stand, in `info` and `arrays`.

    Returns
    -------
    Comparison
        The table, figures over all systems, and what could not be compared.

    Raises
    ------
    InputError
        If the two have no system in common, one of them has no energies, or an argument is not usable.
    StorageError
        If a results folder is damaged.

    Examples
    --------
    >>> import athanor
    >>> from ase.build import bulk
    >>> crystals = [bulk("Ar", "fcc", a=a, cubic=True) for a in (5.2, 5.3, 5.4)]
    >>> soft, hard = ({"name": "lennard-jones", "epsilon": e, "sigma": 3.4, "cutoff": 8.5} for e in (0.0104, 0.0110))
    >>> found = athanor.compare(athanor.evaluate(crystals, soft), athanor.evaluate(crystals, hard))
    >>> f"{1000 * found.figures['energy'].mae:.2f} meV/atom, {found.rows[0]['system']}"
    '4.78 meV/atom, Ar4'
    """
    named = [name or default for name, default in zip(names, ("the first", "the second"), strict=True)]
    side = side_of(first, names[0])
    reference = side_of(second, names[1], energy_key=energy_key, forces_key=forces_key)
    for each, default in zip((side, reference), named, strict=True):
        each.name = each.name or default
    return compare_sides(side, reference, frames=frames)


def compare_sides(side: Side, reference: Side, *, frames: bool = False) -> Comparison:
    """Compare two sides; see `compare`."""
    if frames:
        side, reference = side.by_system(), reference.by_system()
    matching = match(side, reference)
    found = Comparison((side.name, reference.name))
    _tell_who_is_matched(found, matching, side, reference)
    for row, (i, j) in enumerate(matching.pairs):
        found.pairs += [
            _pair(row, step, atoms, other, side, reference)
            for step, atoms, other in _images(side, reference, i, j, frames)
        ]
    if not found.pairs:
        raise InputError(
            f"`{side.name}` and `{reference.name}` have no step of any system in common. Keep frames at the same "
            f"steps, by `every`, in both runs; or compare how they ended."
        )
    _check_energies(found, side, reference)
    _shift(found)
    are_same = all(pair.is_same for pair in found.pairs)
    names = [name for name, quantity in QUANTITIES.items() if not (quantity.of_structure and are_same)]
    for name in names:
        deviation = deviation_of(QUANTITIES[name], found.pairs)
        if deviation is not None:
            found.figures[name] = deviation
    for row, (i, _) in enumerate(matching.pairs):
        pairs = [pair for pair in found.pairs if pair.row == row]
        found.rows.append(_row(row, side.structures[i], pairs, names, frames=frames))
    _tell_what_is_missing(found, side, reference)
    return found


def _images(side: Side, reference: Side, i: int, j: int, frames: bool) -> list[tuple[int | None, Atoms, Atoms]]:
    """Return what is compared of one system: how it ended, or its frames at common steps."""
    if not frames:
        return [(None, side.structures[i].atoms, reference.structures[j].atoms)]
    ours, theirs = side.frames(i), reference.frames(j)
    return [(step, ours[step], theirs[step]) for step in sorted(ours.keys() & theirs.keys())]


def _pair(row: int, step: int | None, atoms: Atoms, other: Atoms, side: Side, reference: Side) -> Pair:
    """Set one structure against the other."""
    ours, theirs, size = configuration_of(atoms), configuration_of(other), len(other)
    pair = Pair(row, step, theirs.numbers, (side.energy(atoms) / size, reference.energy(other) / size))
    if (ours.pbc != theirs.pbc).any():
        return pair
    if theirs.pbc.any():
        pair.strains = principal_strains(ours.cell, theirs.cell, theirs.pbc)
        before, after = (cell_columns(each.cell, each.pbc, size) for each in (theirs, ours))
        there = [name for name in (*"abc", *ANGLES) if before[name] is not None]
        pair.cell = {name: (after[name] or 0.0) - (before[name] or 0.0) for name in there}
    if theirs.pbc.all():
        pair.volume = ours.volume / size, theirs.volume / size
    order = order_of_atoms(ours, theirs)
    if order is None:
        return pair
    ours = ours.reordered(order)
    pair.displacements = displacements(ours, theirs)
    apart = displacements(ours, theirs, turned=False).max()
    pair.is_same = bool(max(apart, np.abs((ours.cell - theirs.cell)[theirs.pbc]).max(initial=0.0)) <= SAME_PLACE)
    if pair.is_same:
        forces = side.forces(atoms), reference.forces(other)
        if forces[0] is not None and forces[1] is not None:
            pair.forces = np.stack([forces[0][order], forces[1]])
        stresses = side.stress(atoms), reference.stress(other)
        if stresses[0] is not None and stresses[1] is not None:
            pair.stress = np.stack([stresses[0], stresses[1]]) / GPa
    return pair


def _shift(found: Comparison) -> None:
    """Fit the shifts of elements, and write down the energies without them."""
    pairs = [pair for pair in found.pairs if pair.has_energies]
    differences = np.array([(pair.energy[0] - pair.energy[1]) * len(pair.numbers) for pair in pairs])
    fitted = element_shifts(differences, [pair.numbers for pair in pairs])
    if fitted is None:
        return
    shifts, left = fitted
    found.shifts = {SYMBOLS[number]: shift for number, shift in shifts.items()}
    for pair, difference in zip(pairs, left, strict=True):
        pair.shifted_energy = pair.energy[1] + float(difference)


def _row(
    row: int, structure: Structure, pairs: Sequence[Pair], names: Sequence[str], *, frames: bool
) -> dict[str, Any]:
    """Return the row of one system."""
    identity = {
        "index": row,
        "system": structure.name,
        "formula": structure.atoms.get_chemical_formula(),
        "atoms": len(structure.atoms),
        "file": structure.file,
        "index_in_file": structure.index,
    }
    if frames:
        identity["frames"] = len(pairs)
    with_energies = [pair.energy for pair in pairs if pair.has_energies]
    for place, name in enumerate(("energy_per_atom", "reference_energy_per_atom")):
        identity[name] = float(np.mean([each[place] for each in with_energies])) if with_energies else None
    if not pairs:
        return identity
    return identity | columns_of(pairs, names) | (cell_differences(pairs) if "strain" in names else {})


def _check_energies(found: Comparison, side: Side, reference: Side) -> None:
    """Raise InputError if one side has no energy; the text says which labels it has instead."""
    for place, each in enumerate((side, reference)):
        if any(math.isfinite(pair.energy[place]) for pair in found.pairs):
            continue
        others = each.labels_like("energy")
        there = f" It has {', '.join(f'`{name}`' for name in others[:_MOST_TOLD])}." if others else ""
        advice = "Evaluate it first, with `athanor evaluate`, or give one that was."
        if each is reference and others:
            advice = f"Say where they stand: `energy_key={others[0]!r}`, on the command line --energy-key {others[0]}."
        raise InputError(
            f"`{each.name}` has no energy, expected in `{each.energy_key}`, of any system in common.{there} {advice}"
        )


def _tell_who_is_matched(found: Comparison, matching: Matching, side: Side, reference: Side) -> None:
    if matching.renamed:
        i, j = matching.renamed[0]
        found.notes.append(
            f"{count(len(matching.renamed), 'system')} matched by places or composition, as names differ: "
            f"{side.structures[i].name} is {reference.structures[j].name} there."
        )
    for each, places in ((side, matching.alone), (reference, matching.reference_alone)):
        if places:
            found.notes.append(f"{count(len(places), 'system')} of {each.name} alone: {each.names(places)}.")
    for each in (side, reference):
        bad = [place for place, structure in enumerate(each.structures) if structure.problem]
        if bad:
            found.notes.append(f"{each.name}: {each.structures[bad[0]].problem}")


def _tell_what_is_missing(found: Comparison, side: Side, reference: Side) -> None:
    def systems(chosen: Callable[[Pair], bool]) -> str:
        names = list(dict.fromkeys(found.rows[pair.row]["system"] for pair in found.pairs if chosen(pair)))
        more = f" and {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
        return ", ".join(names[:_MOST_TOLD]) + more

    without = systems(lambda pair: not pair.has_energies)
    if without:
        found.notes.append(f"No energy on one side: {without}.")
    unknown = systems(lambda pair: pair.displacements is None)
    if unknown:
        found.notes.append(
            f"Atoms in another order, or along other periodic directions: {unknown}. It is not known which atom is "
            f"which, so only energies and cells are compared; sort both alike, for example with ase.build.sort."
        )
    elsewhere = systems(lambda pair: not pair.is_same and pair.displacements is not None)
    if elsewhere:
        found.notes.append(f"Forces are not compared where atoms or cells are at other places: {elsewhere}.")
    if "forces" not in found.figures and not elsewhere and not unknown:
        lacking = [each for place, each in enumerate((side, reference)) if not each.has_forces()]
        for each in lacking:
            others = each.labels_like("force")
            there = f"; it has {', '.join(f'`{name}`' for name in others[:_MOST_TOLD])}" if others else ""
            hint = f" (--forces-key {others[0]})" if others and each is reference else ""
            found.notes.append(f"{each.name} has no forces, expected in `{each.forces_key}`{there}{hint}.")
