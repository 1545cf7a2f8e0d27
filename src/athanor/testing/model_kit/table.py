"""The table of checks: what is looked at, on which systems, and which claim of the card it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from athanor.data.atomic_data import AtomicData
from athanor.errors import in_words
from athanor.testing.model_kit import batches, cutoffs, derivatives, manners, symmetries
from athanor.testing.model_kit.bench import Broken, Measured, ModelBench, NotApplicable
from athanor.testing.model_kit.report import Row, Verdict, excess

Kind = Literal["any", "cell", "molecule", "model"]
"""Which systems a check is for: all, those with a cell, those without, or none: the model as a whole."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the kit.

    Parameters
    ----------
    function
        Takes the bench and a system and gives what it measured; for a check of the model, the bench alone, and gives
        pairs of what was looked at and what was measured there.
    on
        Which systems it is for.
    needs
        Outputs without which there is nothing to check.
    claims
        Properties of the card that the check looks at; none: every model has to pass it.
    """

    function: Callable[..., Iterable[Any]]
    on: Kind = "any"
    needs: tuple[str, ...] = ("energy",)
    claims: tuple[str, ...] = ()

    @property
    def says(self) -> str:
        """What it says of a model that passes."""
        return (self.function.__doc__ or "").split("\n")[0]


CHECKS: dict[str, Check] = {
    "outputs": Check(manners.outputs, needs=()),
    "units": Check(manners.units, "model", claims=("units",)),
    "forces": Check(derivatives.forces, needs=("energy", "forces"), claims=("conservative",)),
    "sign of forces": Check(derivatives.sign_of_forces, needs=("energy", "forces")),
    "stress": Check(derivatives.stress, "cell", ("energy", "stress"), ("conservative",)),
    "sign of stress": Check(derivatives.sign_of_stress, "cell", ("energy", "stress")),
    "sum of forces": Check(symmetries.sum_of_forces, needs=("forces",), claims=("conservative", "equivariant")),
    "translation": Check(symmetries.translation, needs=(), claims=("equivariant",)),
    "rotation": Check(symmetries.rotation, needs=(), claims=("equivariant",)),
    "inversion": Check(symmetries.inversion, needs=(), claims=("equivariant",)),
    "permutation": Check(symmetries.permutation, needs=()),
    "images": Check(symmetries.images, "cell", ()),
    "other cell": Check(symmetries.other_cell, "cell", ()),
    "handedness": Check(symmetries.handedness, "cell", ()),
    "extensivity": Check(symmetries.extensivity, "cell", claims=("equivariant",)),
    "isolation": Check(symmetries.isolation, "molecule", claims=("short_ranged",)),
    "isolated atom": Check(batches.isolated_atom, "model", (), ("equivariant", "short_ranged")),
    "no pairs": Check(batches.no_pairs, "model", claims=("short_ranged",)),
    "companions": Check(batches.companions, needs=()),
    "bits in any batch": Check(batches.bits_in_any_batch, needs=(), claims=("batch_invariance",)),
    "subsets of outputs": Check(batches.subsets, needs=()),
    "autograd group": Check(batches.autograd_group, needs=("energy",), claims=("conservative",)),
    "bits beside stress": Check(batches.bits_beside_stress, "cell", ("stress",), ("stress_keeps_forces",)),
    "smoothness": Check(cutoffs.smoothness, "model", (), ("smooth",)),
    "inputs": Check(manners.inputs, needs=()),
    "detached": Check(manners.detached, needs=()),
    "memory": Check(manners.memory, "model", ()),
    "precision": Check(manners.precision, needs=()),
    "unknown element": Check(manners.unknown_element, "model", (), ("elements",)),
}
"""Name -> check, in the order in which they are made."""


_TOLD_ONLY = (("units",), ("elements",))
"""Claims of which the note says all: `units` is none that a card could make."""
_NONE_FITS = {
    "any": "no system that the model evaluates",
    "cell": "no periodic system; the configuration sets no `supports_pbc`",
    "molecule": "no system without a cell",
}


def rows_of(name: str, bench: ModelBench, systems: Mapping[str, AtomicData]) -> Iterator[Row]:
    """Make one check on every system that it fits; a check that can not be made says why."""
    check = CHECKS[name]
    missing = [output for output in check.needs if not bench.computes(output)]
    fitting = {label: system for label, system in systems.items() if _fits(check.on, system, bench)}
    if missing or not (fitting or check.on == "model"):
        why = f"the model computes no {missing[0]}" if missing else _NONE_FITS[check.on]
        yield Row(name, "", Verdict.NOT_APPLICABLE, note=why, claims=check.claims)
    elif check.on == "model":
        yield from _rows_of_model(name, bench)
    else:
        for label, system in fitting.items():
            yield _row(name, label, bench, partial(check.function, bench, system))


def _fits(kind: Kind, system: AtomicData, bench: ModelBench) -> bool:
    if kind == "cell":
        return system.cell is not None and bench.takes(periodic=True)
    return kind == "any" or (kind == "molecule" and system.cell is None)


def _rows_of_model(name: str, bench: ModelBench) -> Iterator[Row]:
    """Rows of a check of the model as a whole, which gives several; it may end early, with an error."""
    found: dict[str, Sequence[Measured]] = {}

    def go() -> Sequence[Measured]:
        found.update(CHECKS[name].function(bench))
        return ()

    ended = _row(name, "", bench, go)
    yield from (_row(name, label, bench, measured.__iter__) for label, measured in found.items())
    if not found or not ended.holds:
        yield ended


def _row(name: str, label: str, bench: ModelBench, measure: Callable[[], Iterable[Measured]]) -> Row:
    row = Row(name, label, Verdict.PASSED, claims=CHECKS[name].claims, holds=True)
    try:
        found = max(measure(), key=lambda measured: excess(measured.error, measured.bound), default=None)
    except NotApplicable as reason:
        return replace(row, verdict=Verdict.NOT_APPLICABLE, note=str(reason), holds=None)
    except Broken as reason:
        return _judged(replace(row, note=str(reason), holds=False), bench)
    except Exception as error:
        return replace(row, verdict=Verdict.FAILED, note=f"raises {in_words(error)}", holds=False)
    if found is not None:
        row = replace(row, error=found.error, bound=found.bound, note=found.what, holds=found.error <= found.bound)
    return _judged(row, bench)


def _judged(row: Row, bench: ModelBench) -> Row:
    """Return a row with its verdict, in view of what the card claims."""
    claims = [bench.claim(name) for name in row.claims]
    if all(claim is True for claim in claims):
        return replace(row, verdict=Verdict.PASSED if row.holds else Verdict.FAILED)
    if row.claims in _TOLD_ONLY:
        return replace(row, verdict=Verdict.NOT_CLAIMED)
    if False in claims:
        said = "holds, though the card denies it" if row.holds else "does not hold, as the card says"
    else:
        said = "holds" if row.holds else "does not hold"
    return replace(row, verdict=Verdict.NOT_CLAIMED, note=f"{row.note}; {said}" if row.note else said)
