"""The contract of every model: what it claims must hold on small systems, and what it does not claim is measured.

>>> import athanor.testing
>>> from athanor.models.demo import build_demo_model
>>> report = athanor.testing.check_model(build_demo_model(hidden_dim=8), checks=["inputs", "detached"])
>>> report.ok
True
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from athanor._values import check_state_dtype, did_you_mean, usable_device
from athanor.errors import ContractError, InputError
from athanor.models.mixin import BaseModelMixin
from athanor.testing.model_kit.bench import ModelBench, evaluate
from athanor.testing.model_kit.report import ModelReport, Row, Verdict
from athanor.testing.model_kit.systems import in_words as systems_in_words
from athanor.testing.model_kit.systems import systems_for
from athanor.testing.model_kit.table import CHECKS, Check, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from athanor.data.atomic_data import AtomicData

__all__ = ["CHECKS", "Check", "ModelReport", "Row", "Verdict", "check_model", "evaluate"]

_CLAIMS = ("conservative", "equivariant", "smooth")


def check_model(
    model: BaseModelMixin,
    systems: Mapping[str, AtomicData] | None = None,
    *,
    elements: Sequence[int] | None = None,
    distance: float | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
    checks: Collection[str] | None = None,
) -> ModelReport:
    """Check a wrapper on small systems, to the end, and return what was found.

    What the card claims and does not hold is a failure; what it denies, or says nothing of, is measured and told. The
    model is checked where it is, in eval mode, and is afterwards as it was.

    Parameters
    ----------
    model
        A wrapper.
    systems
        What to check it on, by name; by default crystals, a slab and a cell below the cutoff where the configuration
        says that it takes periodic systems, a cluster, a pair and an atom where it takes others, alone and in mixed
        batches.
    elements
        One or two atomic numbers to make the systems of; by default some that the card knows.
    distance
        Å between neighbours there; by default where a crystal has the lowest energy. The systems should be where the
        potential makes sense: rounding errors of huge energies look like wrong forces.
    dtype
        Of positions and cells: float64, or float32 with bounds that are wider. They are those of float32 too where the
        model computes in it, as its card or its parameters say.
    device
        Where to put the batches; by default where the model is.
    checks
        Names of `CHECKS`, to make these only.

    Returns
    -------
    ModelReport
        Its ``ok`` says whether nothing failed, its text is the table; ``raise_if_failed()`` is for tests.

    Raises
    ------
    ContractError
        If `model` is no wrapper.
    InputError
        If there is no check of a name, or the model requires an input for which the kit has no values.

    Notes
    -----
    Forces and stress are compared with differences of the energy. Where energy or forces jump at a cutoff, which
    ``smoothness`` tells, only displacements count with which no pair crosses it; and of a model that is not smooth, as
    its card says, only those along which its energy has a slope. Where the configuration names no cutoff, one is
    searched for along a pair.

    Examples
    --------
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> argon = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5, switch_width=1.0)
    >>> print(check_model(argon, checks=["forces", "stress"]).raise_if_failed().verdict("forces"))
    passed
    """
    if not isinstance(model, BaseModelMixin):
        raise ContractError(
            f"`model` is a {type(model).__name__}; pass a wrapper, a `BaseModelMixin`, as "
            f"`athanor.models.get(...)` returns one."
        )
    for name in checks or ():
        if name not in CHECKS:
            raise InputError(f"There is no check `{name}`.{did_you_mean(name, CHECKS)} There are {', '.join(CHECKS)}.")
    place = None if device is None else usable_device(device)
    bench, config = ModelBench(model, check_state_dtype(dtype), place), copy.deepcopy(model.model_config)
    with _in_eval_mode(model), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        given = {name: system.to(dtype) for name, system in (systems or {}).items()}
        chosen = given or systems_for(bench, elements, distance)
        rows = list(_rows(bench, chosen, CHECKS if checks is None else [name for name in CHECKS if name in checks]))
    if model.model_config != config:
        rows.append(Row("configuration", "", Verdict.FAILED, note="the calls change `model_config`", holds=False))
    texts = dict.fromkeys(str(warning.message) for warning in warned)
    return ModelReport(bench.name, _conditions(bench, chosen), rows, list(texts))


def _rows(bench: ModelBench, systems: Mapping[str, AtomicData], names: Collection[str]) -> Iterator[Row]:
    """Make the checks, after the first one only on systems that the model evaluates at all."""
    bench.put_on(list(systems.values()))
    first, *others = CHECKS
    opening = list(rows_of(first, bench, systems))
    yield from (row for row in opening if first in names or row.verdict is Verdict.FAILED)
    usable = {
        name: system
        for (name, system), row in zip(systems.items(), opening, strict=True)
        if row.verdict is Verdict.PASSED or _evaluates(bench, system)
    }
    if usable:
        bench.put_on(list(usable.values()))
    for name in others:
        if name in names:
            yield from rows_of(name, bench, usable)


def _evaluates(bench: ModelBench, system: AtomicData) -> bool:
    try:
        return all(bool(value.isfinite().all()) for value in bench.evaluate([system])[0].values())
    except Exception:  # told by the row of the system
        return False


@contextmanager
def _in_eval_mode(model: Any) -> Iterator[None]:
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def _conditions(bench: ModelBench, systems: Mapping[str, AtomicData]) -> dict[str, str]:
    says = {True: "yes", False: "no", None: "not said"}
    claims = [f"{name} {says[bench.claim(name)]}" for name in _CLAIMS]
    invariance = bench.card.batch_invariance.replace("_", " ")
    kinds = {str(dtype).removeprefix("torch.") for dtype in (bench.dtype, bench.precision)}
    return {
        "systems": systems_in_words(systems),
        "precision": f"positions in {str(bench.dtype).removeprefix('torch.')}"
        + (", bounds of float32" if len(kinds) > 1 else ""),
        "device": str(bench.device),
        "card": ", ".join([*claims, f"batch_invariance {invariance}"]),
    }
