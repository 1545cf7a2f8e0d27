r"""DFTD3ModelWrapper: the D3 dispersion correction behind the common interface.

The formulas stand in ``kernels/dispersion``; here are the parameters, the tables and the choice of outputs.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from athanor import units
from athanor._values import is_real
from athanor.data._stamp import ComputedFrom
from athanor.errors import InputError
from athanor.kernels.dispersion import dftd3
from athanor.models.analytic import AnalyticModel
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.dftd3.functionals import Damping, damping_called, parameters_of
from athanor.models.dftd3.tables import MAX_ELEMENT, load_dftd3_params, references_of
from athanor.models.stored_list import require_batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch

CN_CUTOFF = 40.0 * units.BOHR
"""Cutoff of coordination numbers of the DFT-D3 program, Å."""

_FIXED = frozenset(
    {
        "a1", "a2", "s6", "s8", "s9", "rs6", "rs8", "alpha", "k1", "k3", "cutoff", "cn_cutoff", "three_body_cutoff",
        "smoothing_fraction", "damping", "three_body",
    }
)  # fmt: skip


class DFTD3ModelWrapper(AnalyticModel):
    r"""DFT-D3 dispersion correction with Becke-Johnson or zero damping, with or without three-body term.

    .. math:: E = -\sum_{i<j} \left[s_6 \frac{C_6}{r^6 + f^6} + s_8 \frac{C_8}{r^8 + f^8}\right] S(r), \qquad
              f = a_1 \sqrt{C_8 / C_6} + a_2

    with C6 from the coordination numbers of both atoms. Add it to a potential that was fitted to a functional without
    dispersion: ``chgnet + DFTD3ModelWrapper.from_functional("pbe")``. A potential that was fitted to energies with
    dispersion has it already.

    Parameters
    ----------
    a1, a2, s8
        Becke-Johnson parameters of a functional, `a2` in bohr; see `from_functional`. With zero damping `a1` and `a2`
        have no meaning.
    cutoff
        Å, of pairs. 15 leaves out about a hundredth of the energy of a crystal, 60 bohr (31.75 Å) a thousandth.
    k1, k3
        Steepness of the counting function, and of the weights of references (negative).
    s6
        Scale of the C6 term.
    smoothing_fraction
        Part of each cutoff, at its end, over which pairs are tapered to zero; 0 cuts sharply.
    auto_download
        Accepted for compatibility; the tables come with the package.
    param_file
        Other tables, see `load_dftd3_params`.
    damping
        ``"bj"`` (rational, of Becke and Johnson) or ``"zero"``.
    rs6, rs8, alpha
        Parameters of zero damping; `alpha` is even.
    three_body
        Whether to add the Axilrod-Teller-Muto term. Its cost grows with the sixth power of its cutoff.
    s9
        Its scale.
    cn_cutoff
        Å, of coordination numbers; by default the smaller of `cutoff` and 40 bohr.
    three_body_cutoff
        Å, of each side of a triple; by default that of coordination numbers.

    Raises
    ------
    InputError
        If a parameter is out of its range, or a table is unusable.
    MissingFileError
        A `FileNotFoundError`, if there is no `param_file`.

    Notes
    -----
    Computes energy and forces unless ``model_config.active_outputs`` says otherwise; stress can be added. It searches
    its pairs itself, so a sum with another model keeps that one's short neighbour list. Arithmetic and tables are in
    float64 (also after ``.to(torch.float32)``), results in the dtype of the positions; a system gets the same bits
    alone and among others, in any slot and at any number of threads. With ``cutoff=60 * BOHR`` and
    ``smoothing_fraction=0`` the numbers are those of the library s-dftd3, except for elements 87 to 94, for which newer
    versions of it have other references.

    References
    ----------
    .. [1] S. Grimme, J. Antony, S. Ehrlich, H. Krieg, J. Chem. Phys. 132, 154104 (2010). doi:10.1063/1.3382344
    .. [2] S. Grimme, S. Ehrlich, L. Goerigk, J. Comput. Chem. 32, 1456 (2011). doi:10.1002/jcc.21759

    Examples
    --------
    >>> from athanor.models.dftd3 import DFTD3ModelWrapper
    >>> d3 = DFTD3ModelWrapper.from_functional("pbe")
    >>> d3.a1, d3.a2, d3.s8
    (0.4289, 4.4407, 0.7875)
    """

    def __init__(
        self,
        a1: float,
        a2: float,
        s8: float,
        cutoff: float = 15.0,
        k1: float = 16.0,
        k3: float = -4.0,
        s6: float = 1.0,
        smoothing_fraction: float = 0.2,
        auto_download: bool = True,
        param_file: Path | str | None = None,
        *,
        damping: Damping = "bj",
        rs6: float = 1.0,
        rs8: float = 1.0,
        alpha: int = 14,
        three_body: bool = False,
        s9: float = 1.0,
        cn_cutoff: float | None = None,
        three_body_cutoff: float | None = None,
    ) -> None:
        super().__init__()
        damping = damping_called(damping)
        for name, value in (("a1", a1), ("a2", a2), ("s8", s8), ("s6", s6), ("s9", s9)):
            _check(name, value, 0.0 <= _as_float(name, value) < math.inf, "finite and not negative")
        for name, value in (("cutoff", cutoff), ("rs6", rs6), ("rs8", rs8)):
            _check(name, value, 0.0 < _as_float(name, value) < math.inf, "finite and positive")
        _check("k1", k1, 0.0 < _as_float("k1", k1) <= 30.0, "positive and at most 30")
        _check("k3", k3, -math.inf < _as_float("k3", k3) < 0.0, "finite and negative")
        _check(
            "smoothing_fraction", smoothing_fraction, 0.0 <= _as_float("smoothing_fraction", smoothing_fraction) < 1.0,
            "at least 0 and below 1",
        )  # fmt: skip
        _check("alpha", alpha, type(alpha) is int and alpha > 0 and alpha % 2 == 0, "an even whole number, such as 14")
        _check("three_body", three_body, isinstance(three_body, bool), "True or False")
        self.cn_cutoff = min(float(cutoff), CN_CUTOFF) if cn_cutoff is None else _as_float("cn_cutoff", cn_cutoff)
        farther = self.cn_cutoff if three_body_cutoff is None else three_body_cutoff
        self.three_body_cutoff = _as_float("three_body_cutoff", farther)
        for name in ("cn_cutoff", "three_body_cutoff"):
            _check(name, getattr(self, name), 0.0 < getattr(self, name) < math.inf, "finite and positive")
        self.a1, self.a2, self.s8, self.s6, self.s9 = a1, a2, s8, s6, s9
        self.rs6, self.rs8, self.alpha, self.k1, self.k3 = rs6, rs8, alpha, k1, k3
        self.cutoff, self.smoothing_fraction = cutoff, smoothing_fraction
        self.damping, self.three_body = damping, three_body
        tables = load_dftd3_params(param_file, auto_download)
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)
        reference_cn = references_of(tables["c6ab"], tables["cn_ref"])
        self.register_buffer("_reference_cn", reference_cn, persistent=False)
        self._known = (reference_cn >= 0.0).any(dim=1).nonzero().flatten().tolist()
        self._checked: ComputedFrom = ComputedFrom()
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", "forces", "stress"}), supports_pbc=True, active_outputs={"energy", "forces"}
        )
        self.model_card = ModelCard(
            name=f"D3({'BJ' if damping == 'bj' else '0'})",
            kind="any",
            elements=frozenset(self._known),
            conservative=True,
            equivariant=True,
            smooth=smoothing_fraction > 0.0,
            batch_invariance="verified",
            stress_keeps_forces=True,
            licence="Apache-2.0",
            citation="doi:10.1063/1.3382344, doi:10.1002/jcc.21759",
        )

    @classmethod
    def from_functional(
        cls, functional: str = "pbe", damping: Damping = "bj", *, cutoff: float = 15.0,
        smoothing_fraction: float = 0.2, three_body: bool = False, cn_cutoff: float | None = None,
        three_body_cutoff: float | None = None,
    ) -> Self:  # fmt: skip
        """Return the correction with the published parameters of a density functional.

        Parameters
        ----------
        functional
            ``"pbe"``, ``"pbesol"``, ``"revpbe"``, ``"rpbe"``, ``"pbe0"``, ``"blyp"``, ``"b3lyp"``, ``"bp86"``,
            ``"tpss"``, ``"scan"``, ``"r2scan"``, ``"hse06"``, ``"wb97x"``, ``"wb97m"``: that of the data which the
            potential was fitted to. PBE is what most potentials for materials are fitted to.
        damping
            ``"bj"`` or ``"zero"``; not every functional has both.
        cutoff, smoothing_fraction, three_body, cn_cutoff, three_body_cutoff
            As `DFTD3ModelWrapper` takes them.

        Raises
        ------
        InputError
            If there are no parameters of this functional for this damping.

        Examples
        --------
        >>> from athanor.models.dftd3 import DFTD3ModelWrapper
        >>> DFTD3ModelWrapper.from_functional("b3lyp", damping="zero").rs6
        1.261
        """
        damping = damping_called(damping)
        found = parameters_of(functional, damping)
        values: dict[str, Any] = {"a1": 0.0, "a2": 0.0, "s8": found.s8}
        values |= dict(zip(("a1", "a2") if damping == "bj" else ("rs6", "rs8"), found[1:3], strict=True))
        model = cls(
            **values, damping=damping, cutoff=cutoff, smoothing_fraction=smoothing_fraction, three_body=three_body,
            cn_cutoff=cn_cutoff, three_body_cutoff=three_body_cutoff,
        )  # fmt: skip
        model.model_card = replace(model.model_card, name=f"{model.model_card.name} for {functional}")
        return model

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and "model_config" in self.__dict__:
            raise InputError(f"`{name}` of a {type(self).__name__} can not be changed. Make another one.")
        super().__setattr__(name, value)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move the tables, and keep them in double precision."""

        def moved(table: torch.Tensor) -> torch.Tensor:
            like = fn(table[:0])
            return fn(table) if like.dtype == table.dtype else table.to(like.device)

        return super()._apply(moved, recurse)

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of the operation.

        Raises
        ------
        ContractError
            A `TypeError`, if `data` is not a Batch.
        InputError
            If an element has no references.
        """
        batch = require_batch(self, data)
        rational = self.damping == "bj"
        return {
            "positions": batch.positions,
            "cell": batch.cell_or_zeros,
            "segment_ptr": batch.batch_ptr,
            "pbc": batch.pbc_or_false,
            "atomic_numbers": self._numbers(batch),
            "rcov": self.rcov,
            "r4r2": self.r4r2,
            "r0ab": self.r0ab,
            "reference_cn": self._reference_cn,
            "reference_c6": self.c6ab,
            "rational": rational,
            "s6": self.s6,
            "s8": self.s8,
            "s9": self.s9 if self.three_body else 0.0,
            "first": self.a1 if rational else self.rs6,
            "second": self.a2 if rational else self.rs8,
            "alpha": self.alpha,
            "k1": self.k1,
            "k3": self.k3,
            "cutoff": self.cutoff,
            "cn_cutoff": self.cn_cutoff,
            "three_body_cutoff": self.three_body_cutoff,
            "smoothing_fraction": self.smoothing_fraction,
        }

    def _numbers(self, batch: Batch) -> torch.Tensor:
        """Return the atomic numbers, each of which has references; looked at once while they stay."""
        numbers = batch.atomic_numbers
        if not self._checked.holds(numbers):
            unknown = sorted(set(numbers.unique().tolist()).difference(self._known))
            if unknown:
                raise InputError(
                    f"{type(self).__name__} has no references for atomic number {', '.join(map(str, unknown))}; it has "
                    f"them up to {MAX_ELEMENT}. Leave these systems out."
                )
            self._checked = ComputedFrom(numbers)
        return numbers

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch."""
        energy, forces, virial = dftd3(**self.adapt_input(data, **kwargs))
        return self.adapt_output({"energy": energy, "forces": forces, "virial": virial}, data)


def _as_float(name: str, value: Any) -> float:
    """Return `value` as a float, or refuse it by name."""
    if not is_real(value):
        raise InputError(f"`{name}` is {value!r}; it must be a number, for example 0.5.")
    return float(value)


def _check(name: str, value: object, holds: bool, what: str) -> None:
    if not holds:
        raise InputError(f"`{name}` is {value!r}; it must be {what}.")
