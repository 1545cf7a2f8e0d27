"""BuckinghamModelWrapper: the Buckingham potential behind the common interface."""

from __future__ import annotations

from athanor.models.pair_model import PairModel, checked_range
from athanor.models.pair_parameters import PairParameter, pair_tables


class BuckinghamModelWrapper(PairModel):
    r"""Buckingham potential with hard, shifted or tapered cutoff, for one or several elements.

    .. math:: E = \sum_{i<j} \left\{A e^{-r/\rho} - \frac{C}{r^6} - E_0\right\} S(r)

    with the taper :math:`S` of `LennardJonesModelWrapper`, and :math:`E_0` the pair energy at the cutoff if `shift`,
    else 0.

    Use it for ions, with the charges of an `EwaldModelWrapper` added, and for molecules.

    Parameters
    ----------
    repulsion
        A in eV: a number, or one for each pair of elements as ``{"Mg-O": 1428.5, "O-O": 22764.3, "Mg-Mg": 0.0}``.
    length
        Rho in Å, likewise.
    dispersion
        C in eV Å⁶, likewise.
    cutoff
        Å.
    switch_width
        Å over which the energy is tapered to zero; 0 is a hard cutoff.
    shift
        Subtract the pair energy at the cutoff from each pair.
    half_list
        Whether to ask for a list with each pair once.

    Raises
    ------
    InputError
        If a parameter is no number in its range, a pair of elements is missing, or parameters name different elements.

    Notes
    -----
    At short distance the dispersion wins, and atoms that come over the hill before it fall into each other: add
    `ZBLModelWrapper` where that can happen. Otherwise as `LennardJonesModelWrapper`: energy and forces unless asked
    otherwise, stress can be added, sums are in float64, and a system has the same bits in any batch and at any number
    of threads.

    References
    ----------
    .. [1] R. A. Buckingham, Proc. R. Soc. A 168, 264 (1938). doi:10.1098/rspa.1938.0173

    Examples
    --------
    >>> from athanor.models.buckingham import BuckinghamModelWrapper
    >>> oxygen = BuckinghamModelWrapper(repulsion={"O-O": 22764.3}, length=0.149, dispersion=27.88, cutoff=10.0)
    >>> sorted(oxygen.model_card.elements)
    [8]
    """

    _settled = ("repulsion", "length", "dispersion")

    def __init__(
        self,
        repulsion: PairParameter,
        length: PairParameter,
        dispersion: PairParameter,
        cutoff: float,
        switch_width: float = 0.0,
        *,
        shift: bool = False,
        half_list: bool = False,
    ) -> None:
        cutoff, switch_width = checked_range(cutoff, switch_width)
        elements, tables = pair_tables(
            repulsion=(repulsion, "eV", False), length=(length, "Å", True), dispersion=(dispersion, "eV Å⁶", False)
        )
        super().__init__(
            "buckingham",
            tables,
            elements,
            name="Buckingham",
            citation="doi:10.1098/rspa.1938.0173",
            cutoff=cutoff,
            switch_width=switch_width,
            shift=shift,
            half_list=half_list,
            argument="`repulsion`, `length` and `dispersion`",
        )
        self.__dict__.update(repulsion=repulsion, length=length, dispersion=dispersion)
