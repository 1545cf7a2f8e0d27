"""MorseModelWrapper: the Morse potential behind the common interface."""

from __future__ import annotations

from athanor.models.pair_model import PairModel, checked_range
from athanor.models.pair_parameters import PairParameter, pair_tables


class MorseModelWrapper(PairModel):
    r"""Morse potential with hard, shifted or tapered cutoff, for one or several elements.

    .. math:: E = \sum_{i<j} \left\{D\left[e^{-2\alpha(r - r_0)} - 2e^{-\alpha(r - r_0)}\right] - E_0\right\} S(r)

    with the taper :math:`S` of `LennardJonesModelWrapper`, and :math:`E_0` the pair energy at the cutoff if `shift`,
    else 0.

    Use it for bonds that stretch and break, and for simple metals.

    Parameters
    ----------
    depth
        D in eV: a number, or one for each pair of elements as ``{"Ni-Ni": 0.42, "Al-Ni": 0.38, "Al-Al": 0.27}``.
    steepness
        Alpha in 1/Å, likewise.
    distance
        r_0 in Å, where the pair energy is lowest, likewise.
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
    As `LennardJonesModelWrapper`: energy and forces unless asked otherwise, stress can be added, sums are in float64,
    and a system has the same bits in any batch and at any number of threads.

    References
    ----------
    .. [1] P. M. Morse, Phys. Rev. 34, 57 (1929). doi:10.1103/PhysRev.34.57

    Examples
    --------
    >>> from athanor.models.morse import MorseModelWrapper
    >>> copper = MorseModelWrapper(depth=0.3429, steepness=1.3588, distance=2.866, cutoff=7.0, switch_width=1.0)
    >>> copper.model_config.neighbor_config.cutoff
    7.0
    """

    _settled = ("depth", "steepness", "distance")

    def __init__(
        self,
        depth: PairParameter,
        steepness: PairParameter,
        distance: PairParameter,
        cutoff: float,
        switch_width: float = 0.0,
        *,
        shift: bool = False,
        half_list: bool = False,
    ) -> None:
        cutoff, switch_width = checked_range(cutoff, switch_width)
        elements, tables = pair_tables(
            depth=(depth, "eV", False), steepness=(steepness, "1/Å", True), distance=(distance, "Å", False)
        )
        super().__init__(
            "morse",
            tables,
            elements,
            name="Morse",
            citation="doi:10.1103/PhysRev.34.57",
            cutoff=cutoff,
            switch_width=switch_width,
            shift=shift,
            half_list=half_list,
            argument="`depth`, `steepness` and `distance`",
        )
        self.__dict__.update(depth=depth, steepness=steepness, distance=distance)
