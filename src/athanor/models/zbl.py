"""ZBLModelWrapper: the screened repulsion of nuclei at short distance."""

from __future__ import annotations

import math

import torch

from athanor import units
from athanor.data.elements import MAX_ATOMIC_NUMBER
from athanor.errors import InputError
from athanor.models.coulomb import positive
from athanor.models.pair_model import PairModel, as_float


class ZBLModelWrapper(PairModel):
    r"""Universal repulsion of Ziegler, Biersack and Littmark between nuclei screened by their electrons.

    .. math:: E = \sum_{i<j} \frac{k_e Z_i Z_j}{r} \varphi\!\left(\frac{r}{a}\right) + S(r), \qquad
              a = \frac{0.4685\,\text{Å}}{Z_i^{0.23} + Z_j^{0.23}}

    .. math:: \varphi(x) = 0.18175\,e^{-3.1998x} + 0.50986\,e^{-0.94229x} + 0.28022\,e^{-0.4029x}
              + 0.02817\,e^{-0.20162x}

    :math:`S` is a constant up to `inner` and a polynomial from there to `outer`, where energy, force and the slope of
    the force are zero.

    Add it to a potential that knows nothing of atoms closer than those it was fitted to, for collisions, radiation and
    high temperature. Choose `outer` below the shortest bond, or what the potential was fitted to is changed.

    Parameters
    ----------
    inner
        Å, where the polynomial begins.
    outer
        Å, where the energy ends.
    half_list
        Whether to ask for a list with each pair once.
    coulomb_constant
        eV Å/e²; ``None``: CODATA 2022, see `athanor.units`. LAMMPS uses 14.399645.

    Raises
    ------
    InputError
        If `inner` is negative, or not less than `outer`, or a number is not finite.

    Notes
    -----
    Every element up to oganesson. As `LennardJonesModelWrapper`: energy and forces unless asked otherwise, stress can
    be added, sums are in float64, and a system has the same bits in any batch and at any number of threads.

    References
    ----------
    .. [1] J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter, Pergamon (1985).

    Examples
    --------
    >>> from athanor.models.zbl import ZBLModelWrapper
    >>> ZBLModelWrapper(inner=0.8, outer=1.6).model_config.neighbor_config.cutoff
    1.6
    """

    _settled = ("inner", "outer", "coulomb_constant")

    def __init__(
        self, inner: float, outer: float, *, half_list: bool = False, coulomb_constant: float | None = None
    ) -> None:
        inner, outer = as_float("inner", inner), as_float("outer", outer)
        if not 0.0 <= inner < outer < math.inf:
            raise InputError(f"`inner` is {inner} Å and `outer` {outer} Å; they must be 0 <= inner < outer, finite.")
        constant = units.COULOMB_CONSTANT if coulomb_constant is None else coulomb_constant
        constant = positive("coulomb_constant", constant, "eV Å/e²")
        elements = range(1, MAX_ATOMIC_NUMBER + 1)
        number = torch.tensor(elements, dtype=torch.float64)
        reach = number**0.23
        tables = (
            constant * number[:, None] * number,
            0.4685 / (reach[:, None] + reach),
            torch.full((len(number),) * 2, inner, dtype=torch.float64),
            torch.full((len(number),) * 2, outer, dtype=torch.float64),
        )
        super().__init__(
            "zbl",
            tables,
            elements,
            name="ZBL",
            citation="J. F. Ziegler, J. P. Biersack, U. Littmark, The Stopping and Range of Ions in Matter (1985)",
            cutoff=outer,
            half_list=half_list,
            smooth=True,
            advice="It is for nuclei of elements.",
        )
        self.__dict__.update(inner=inner, outer=outer, coulomb_constant=constant)
