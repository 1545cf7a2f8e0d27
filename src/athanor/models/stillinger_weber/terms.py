"""Parameters of the Stillinger-Weber potential: what stands in a file, and the tables that the operation reads."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product

import torch

from athanor.data.elements import SYMBOLS
from athanor.errors import InputError
from athanor.models.potential_text import PotentialText

Triplet = tuple[int, int, int]
"""Atomic numbers of the atom in the middle and of two neighbours."""

_KIND = "a file of Stillinger-Weber parameters: three symbols and eleven numbers for each triplet of elements"
_LARGEST_TOLERANCE = 0.01
_OF_PAIRS = ("epsilon", "sigma", "a", "A", "B", "p", "q")
_OF_TRIPLES = ("epsilon", "lambda_", "cosine")


@dataclass(frozen=True, slots=True)
class Terms:
    r"""Parameters of one triplet of elements, named as in the paper and in the file.

    Parameters
    ----------
    epsilon, sigma
        eV, Å.
    a
        Cutoff in sigma.
    lambda_, gamma, cosine
        Strength in epsilon, range in sigma, and cosine at rest of an angle.
    A, B, p, q
        Of the pair.
    tol
        Where the factor of the angle falls below it, all ends; 0: at the cutoff.
    """

    epsilon: float
    sigma: float
    a: float
    lambda_: float
    gamma: float
    cosine: float
    A: float
    B: float
    p: float
    q: float
    tol: float = 0.0

    @property
    def end(self) -> float:
        """Where the exponentials end, Å."""
        return self.a * self.sigma

    @property
    def reach(self) -> float:
        """Where the potential is cut, Å; as in LAMMPS."""
        if self.tol <= 0.0:
            return self.end
        return self.end + min(self.gamma, 1.0) * self.sigma / math.log(min(self.tol, _LARGEST_TOLERANCE))


NAMES = tuple(field.name for field in fields(Terms))


def read_stillinger_weber(path: str | os.PathLike[str]) -> tuple[dict[Triplet, Terms], str]:
    """Read the parameters of each triplet from a file in LAMMPS's ``.sw`` form, and return them with its digest.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged or something else; the text names the line and what was expected.
    """
    text = PotentialText(path, _KIND, comments=True)
    found: dict[Triplet, Terms] = {}
    while not text.at_end:
        i, j, k = (text.element(text.word("three symbols of elements")) for _ in range(3))
        values = [text.number(text.word(name), f"`{name}` of {in_words((i, j, k))}") for name in NAMES]
        if (i, j, k) in found:
            text.refuse(f"has {in_words((i, j, k))} a second time")
        terms = Terms(*values)
        wrong = [name for name in ("epsilon", "lambda_", "gamma", "A", "B", "tol") if getattr(terms, name) < 0.0]
        wrong += [
            name for name in ("sigma", "a") if getattr(terms, name) < 0.0 or (j == k and not getattr(terms, name))
        ]
        if wrong:
            text.refuse(
                f"has {in_words((i, j, k))} with a `{wrong[0]}` of {getattr(terms, wrong[0]):g}, out of its range"
            )
        found[i, j, k] = terms
    if not found:
        text.refuse("the file has no parameters")
    return found, text.digest


def tables(terms: Mapping[Triplet, Terms], elements: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tables of the operation, `pair` and `triple`, for elements in this order.

    Raises
    ------
    InputError
        If a triplet of the elements is missing, or two that mean the same differ.
    """
    for i, j, k in product(elements, repeat=3):
        if (i, j, k) not in terms:
            names = ", ".join(SYMBOLS[number] for number in elements)
            raise InputError(
                f"There are no Stillinger-Weber parameters for {in_words((i, j, k))}; {names} need them all."
            )
    count = len(elements)
    pair = torch.empty(count, count, 8, dtype=torch.float64)
    triple = torch.empty(count, count, count, 2, dtype=torch.float64)
    for (a, i), (b, j) in product(enumerate(elements), repeat=2):
        one = terms[i, j, j]
        _check_same((i, j, j), (j, i, i), one, terms[j, i, i], _OF_PAIRS)
        numbers = (one.A * one.epsilon, one.B, one.p, one.q, one.sigma, one.end, one.reach, one.gamma * one.sigma)
        pair[a, b] = torch.tensor(numbers, dtype=torch.float64)
        for c, k in enumerate(elements):
            one = terms[i, j, k]
            _check_same((i, j, k), (i, k, j), one, terms[i, k, j], _OF_TRIPLES)
            triple[a, b, c] = torch.tensor((one.lambda_ * one.epsilon, one.cosine), dtype=torch.float64)
    return pair, triple


def _check_same(one: Triplet, other: Triplet, first: Terms, second: Terms, names: tuple[str, ...]) -> None:
    """Refuse parameters that depend on the order in which atoms are named."""
    for name in names:
        if getattr(first, name) != getattr(second, name):
            raise InputError(
                f"`{name}` of {in_words(one)} is {getattr(first, name):g} and of {in_words(other)} "
                f"{getattr(second, name):g}; it has to be the same. Correct the file."
            )


def in_words(triplet: Triplet) -> str:
    """Return the symbols of a triplet."""
    return " ".join(SYMBOLS[number] for number in triplet)
