r"""How an Ewald sum is split so that an asked accuracy is reached, whatever the cutoff.

Kolafa and Perram's estimates [1]_ of the errors of both sums, written with :math:`s = \alpha r_c` and
:math:`s' = k_c / 2\alpha`, are one function of s and of s', and so s = s' balances them. Relative to the force between
ions at their mean distance d both are

.. math:: \delta F / F \approx C \sqrt{d / r_c}\; e^{-s^2},

where C would be 2 without order. The largest errors that we found, in rock salt rattled by 0.05 Å, whose forces are
small and whose shells of ions add up, need C = 80; in melts errors are some fifteen times smaller than asked. As
d / r_c is dropped, :math:`\alpha` and the reach in reciprocal space do not depend on the system: its energy is a smooth
function of its cell, and others in a batch change nothing.

Sums are not cut sharply but brought to zero over the last 1/s^2 of the cutoff, where terms fall to a seventh.

References
----------
.. [1] J. Kolafa, J. W. Perram, Mol. Simul. 9, 351 (1992). doi:10.1080/08927029208049126
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from athanor._values import is_real
from athanor.errors import InputError

_ORDER = 80.0


@dataclass(frozen=True, slots=True)
class Splitting:
    """What is summed over pairs and what over reciprocal vectors.

    Parameters
    ----------
    screening
        1/Å, alpha.
    cutoff, taper_start
        Å, of pairs.
    radius, radius_start
        1/Å, of reciprocal vectors.
    """

    screening: float
    cutoff: float
    taper_start: float
    radius: float
    radius_start: float

    @property
    def self_term(self) -> float:
        """Self energy of a unit charge, 1/Å."""
        return self.screening / math.sqrt(math.pi)

    @property
    def background(self) -> float:
        """Energy of the background of a unit charge in a unit volume, Å²."""
        return 0.5 * math.pi / self.screening**2


def splitting_for(cutoff: float, accuracy: float, screening: float | None = None) -> Splitting:
    """Return the splitting that reaches an accuracy.

    Parameters
    ----------
    cutoff
        Å, of pairs.
    accuracy
        Relative RMS error of forces.
    screening
        1/Å; chosen unless given. A given one decides the accuracy of the sum over pairs.
    """
    steepness = math.sqrt(math.log(_ORDER / accuracy))
    alpha = steepness / cutoff if screening is None else screening
    radius = 2.0 * alpha * steepness
    whole = 1.0 - 1.0 / steepness**2
    return Splitting(alpha, cutoff, whole * cutoff, radius, whole * radius)


def pair_error(splitting: Splitting) -> float:
    """Return the relative RMS error of forces that the sum over pairs may leave."""
    return _ORDER * math.exp(-((splitting.screening * splitting.cutoff) ** 2))


def check_accuracy(accuracy: float, best: float, remedy: str) -> float:
    """Return `accuracy` as a float.

    Raises
    ------
    InputError
        If it is not a number from `best` to 0.1; the text ends with `remedy`.
    """
    if not is_real(accuracy) or not best <= accuracy <= 0.1:
        raise InputError(
            f"`accuracy` is {accuracy!r}; give the relative RMS error of forces, from {best:g} to 0.1, such as "
            f"1e-6.{remedy}"
        )
    return float(accuracy)
