"""What a system gets does not depend on its companions, its slot, or on what else is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

import torch

from athanor.data.atomic_data import AtomicData
from athanor.errors import ContractError, NotAvailableError, in_words
from athanor.models.outputs import asking_for
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.testing import tolerances
from athanor.testing.model_kit.bench import Broken, Measured, ModelBench, NotApplicable, Results, evaluate
from athanor.testing.model_kit.systems import AWAY, boxed, with_inputs
from athanor.testing.systems import reordered, structure
from athanor.testing.tolerances import Tolerance

_LARGE = 64


def companions(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """A system gets the same numbers alone and first, last or in the middle of batches of 2, 3, 7 and 64."""
    yield from _among_others(bench, system, tolerances.COMPANIONS)


def bits_in_any_batch(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """The numbers of a system are equal to the last bit in every batch."""
    yield from _among_others(bench, system, tolerances.EXACT)


def _among_others(bench: ModelBench, system: AtomicData, tolerance: Tolerance) -> Iterator[Measured]:
    names = bench.names(system)
    alone = bench.once(("alone", id(system)), lambda: bench.evaluate([system], names)[0])
    for crowd, results in bench.once("crowds", lambda: list(_crowds(bench))):
        for place, other in enumerate(crowd):
            if other is system:
                where = f"at place {place + 1} of {len(crowd)} systems"
                yield from bench.compare(where, results[place], alone, tolerance, names)


def _crowds(bench: ModelBench) -> Iterator[tuple[list[AtomicData], list[Results]]]:
    """Batches, among which every system stands first, last and in the middle, and the results of their systems."""
    systems = bench.systems
    turned = [[*systems[start:], *systems[:start]] for start in range(len(systems))]
    crowds = [_take(turn, size) for size in (2, 3) for turn in turned]
    crowds += [_take(turn, 7) for turn in turned[:: max(1, len(turned) // 3)]]
    for crowd in (*crowds, _take(systems, _LARGE)):
        yield crowd, bench.evaluate(crowd, {name for system in crowd for name in bench.names(system)})


def _take(systems: Sequence[AtomicData], size: int) -> list[AtomicData]:
    return list(itertools.islice(itertools.cycle(systems), size))


def autograd_group(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """In an autograd group of a pipeline, where its energy is differentiated with that of others, nothing changes."""
    group = PipelineModelWrapper([PipelineGroup([bench.model], use_autograd=True)])
    names = bench.names(system)
    try:
        together = evaluate(group, [system], names, bench.device)[0]
    except (ContractError, NotAvailableError) as error:
        raise NotApplicable(in_words(error)) from error
    alone = bench.once(("alone", id(system)), lambda: bench.evaluate([system], names)[0])
    yield from bench.compare("in an autograd group", together, alone, tolerances.MOTION, names)


# ------------------------------------------------------------------------------------------------------------- no pairs


def isolated_atom(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """An atom alone has no force, and alone in a large box no stress."""
    position = torch.tensor([AWAY], dtype=bench.dtype)
    atom = structure(position, [bench.elements[0]])
    for title, in_box in (("an atom", False), ("an atom in a large box", True)):
        if bench.takes(periodic=in_box):
            alone = bench.evaluate([with_inputs(bench, boxed(bench, atom) if in_box else atom)])[0]
            if not all(bool(value.isfinite().all()) for value in alone.values()):
                raise Broken(f"the results of {title} are not finite")
            names = [name for name in alone if name != "energy"]
            yield (
                title,
                [
                    bench.measure(f"{name} of {title}", alone[name], torch.zeros_like(alone[name]), tolerances.MOTION)
                    for name in names
                ],
            )


def no_pairs(bench: ModelBench) -> Iterator[tuple[str, Sequence[Measured]]]:
    """A batch without a single pair gives finite numbers: the energy of each atom, as often as there are atoms."""
    if not bench.cutoffs:
        raise NotApplicable("the model has no neighbour list")
    places = torch.tensor([AWAY, [AWAY[0] + 1.5 * max(bench.cutoffs), *AWAY[1:]]], dtype=bench.dtype)
    pair = structure(places, [bench.elements[0], bench.elements[-1]])
    pair = with_inputs(bench, pair if bench.takes(periodic=False) else boxed(bench, pair))
    apart = [reordered(pair, torch.tensor(atoms)) for atoms in ([0], [1], [0, 1])]  # each with its own charge
    first, second, both = bench.evaluate_many(apart, bench.names(pair))
    if not all(bool(value.isfinite().all()) for value in both.values()):
        raise Broken("the results are not finite")
    found = []
    if "energy" in both:
        expected = first["energy"].double() + second["energy"].double()
        found.append(
            bench.measure("energy of atoms without neighbours", both["energy"], expected, tolerances.PERMUTATION)
        )
    yield "an empty list", found


# ----------------------------------------------------------------------------------------------- what else is asked for


def subsets(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Whatever is asked for with an output, its numbers are the same, and nothing else is returned."""
    yield from _asked_in_subsets(bench, system, tolerances.COMPANIONS, bench.names(system))


def bits_beside_stress(bench: ModelBench, system: AtomicData) -> Iterator[Measured]:
    """Energy and forces have equal bits with and without stress."""
    names = bench.names(system)
    if "stress" not in names or len(names) == 1:
        raise NotApplicable("it has no stress")
    yield from _asked_in_subsets(bench, system, tolerances.EXACT, [name for name in names if name != "stress"])


def _asked_in_subsets(
    bench: ModelBench, system: AtomicData, tolerance: Tolerance, compared: Collection[str]
) -> Iterator[Measured]:
    names = bench.names(system)
    groups = [names, *([name] for name in names), [name for name in names if name != "stress"]]
    found = bench.once(("subsets", id(system)), lambda: [_asked_for(bench, system, group) for group in groups])
    for group, outputs in zip(groups[1:], found[1:], strict=True):
        for name in set(group) & set(compared):
            yield bench.measure(
                f"{name} asked for with {_besides(name, group)}", outputs[name], found[0][name], tolerance
            )


def _besides(name: str, group: Sequence[str]) -> str:
    return " and ".join(other for other in group if other != name) or "nothing else"


def _asked_for(bench: ModelBench, system: AtomicData, names: Sequence[str]) -> dict[str, torch.Tensor]:
    batch = bench.batch([system, system])
    with asking_for(bench.model, names):
        outputs = bench.call(batch)
    returned = {name: value.detach().cpu().clone() for name, value in outputs.items() if value is not None}
    if returned.keys() != set(names):
        raise Broken(f"{_list(names)} is asked for, and {_list(returned) or 'nothing'} is returned")
    return returned


def _list(names: Collection[str]) -> str:
    return ", ".join(sorted(names))
