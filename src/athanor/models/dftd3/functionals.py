"""Published damping parameters of D3 for common density functionals."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, cast, get_args

from athanor._values import did_you_mean
from athanor.errors import InputError

Damping = Literal["bj", "zero"]


class Parameters(NamedTuple):
    """Damping parameters of one functional.

    Parameters
    ----------
    s8
        Scale of the C8 term.
    first, second
        ``a1`` and ``a2`` (bohr) of Becke-Johnson damping, or ``rs6`` and ``rs8`` of zero damping.
    source
        DOI, or where else they were published.
    """

    s8: float
    first: float
    second: float
    source: str


_BONN = "the DFT-D3 program of the Grimme group"
_D3 = "10.1063/1.3382344"
_BJ = "10.1002/jcc.21759"
_GMTKN30 = "10.1039/c0cp02984j"
_SCAN = "10.1103/PhysRevB.94.115144"
_HSE = "10.1021/jp501237c"

BECKE_JOHNSON: dict[str, Parameters] = {
    "pbe": Parameters(0.7875, 0.4289, 4.4407, _BJ),
    "pbesol": Parameters(2.9491, 0.4466, 6.1742, _GMTKN30),
    "revpbe": Parameters(2.3550, 0.5238, 3.5016, _BJ),
    "rpbe": Parameters(0.8318, 0.1820, 4.0094, _BONN),
    "pbe0": Parameters(1.2177, 0.4145, 4.8593, _BJ),
    "blyp": Parameters(2.6996, 0.4298, 4.2359, _BJ),
    "b3lyp": Parameters(1.9889, 0.3981, 4.4211, _BJ),
    "bp86": Parameters(3.2822, 0.3946, 4.8516, _BJ),
    "tpss": Parameters(1.9435, 0.4535, 4.4752, _BJ),
    "scan": Parameters(0.0, 0.5380, 5.4200, _SCAN),
    "r2scan": Parameters(0.78981345, 0.49484001, 5.73083694, "10.1063/5.0041008"),
    "hse06": Parameters(2.3100, 0.3830, 5.6850, _HSE),
    "wb97x": Parameters(0.2641, 0.0, 5.4959, "10.1021/acs.jctc.8b00842"),
    "wb97m": Parameters(0.3908, 0.5660, 3.1280, "10.1021/acs.jctc.8b00842"),
}
"""Rational damping; s6 is 1."""

ZERO: dict[str, Parameters] = {
    "pbe": Parameters(0.722, 1.217, 1.0, _D3),
    "pbesol": Parameters(0.612, 1.345, 1.0, _BONN),
    "revpbe": Parameters(1.010, 0.923, 1.0, _D3),
    "rpbe": Parameters(0.514, 0.872, 1.0, _BONN),
    "pbe0": Parameters(0.928, 1.287, 1.0, _D3),
    "blyp": Parameters(1.682, 1.094, 1.0, _D3),
    "b3lyp": Parameters(1.703, 1.261, 1.0, _D3),
    "bp86": Parameters(1.683, 1.139, 1.0, _D3),
    "tpss": Parameters(1.105, 1.166, 1.0, _D3),
    "scan": Parameters(0.0, 1.324, 1.0, _SCAN),
    "hse06": Parameters(0.109, 1.129, 1.0, _HSE),
    "wb97x": Parameters(1.0, 1.281, 1.094, "10.1021/ct300715s"),
}
"""Zero damping; s6 is 1 and alpha 14. ``wb97x`` is the refitted functional omega-B97X-D3."""

_ALIASES = {"bp": "bp86", "hse": "hse06"}
_OTHER_DAMPING: dict[str, str] = {"bj": "zero", "zero": "bj"}


def damping_called(name: Any) -> Damping:
    """Return the damping of a name, in upper or lower case.

    Raises
    ------
    InputError
        If there is none of it.
    """
    for damping in get_args(Damping):
        if isinstance(name, str) and name.lower() == damping:
            return cast("Damping", damping)
    raise InputError(f"`damping` is {name!r}; it must be 'bj' or 'zero'.")


def parameters_of(functional: str, damping: Damping) -> Parameters:
    """Return the published parameters of a functional; case, hyphens and underscores do not matter.

    Raises
    ------
    InputError
        If there are none for this damping; the text names those that there are.
    """
    tables = {"bj": BECKE_JOHNSON, "zero": ZERO}
    damping = damping_called(damping)
    if not isinstance(functional, str):
        raise InputError(f"`functional` is {functional!r}; pass a name such as 'pbe'.")
    name = functional.strip().lower().replace("-", "").replace("_", "").replace("ω", "w")
    name = _ALIASES.get(name, name)
    found = tables[damping].get(name)
    if found is not None:
        return found
    other = _OTHER_DAMPING[damping]
    if name in tables[other]:
        raise InputError(f"There are no parameters of {functional} for damping {damping!r}; there are for {other!r}.")
    known = sorted({*BECKE_JOHNSON, *ZERO})
    if "d3" in name or "d4" in name or name.endswith(("v", "vv10", "mbd")):
        raise InputError(
            f"`{functional}` contains dispersion: a potential that was fitted to it has it already, and adding more "
            f"would count it twice. For the bare functional, give its name alone, such as {known[0]} or pbe."
        )
    raise InputError(
        f"There are no parameters for the functional `{functional}`.{did_you_mean(name, known)} There are some for "
        f"{', '.join(known)}. Pass those of others to `DFTD3ModelWrapper(a1, a2, s8)`."
    )
