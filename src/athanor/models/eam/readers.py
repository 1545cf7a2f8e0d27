"""Files of embedded-atom potentials: setfl (``eam.alloy``), Finnis-Sinclair (``eam.fs``) and funcfl (``eam``)."""

from __future__ import annotations

import os

import torch

from athanor._values import shown
from athanor.models.eam.tables import EAMTables
from athanor.models.potential_text import PotentialText

_KIND = "a file of an embedded-atom potential: setfl (`eam.alloy`), Finnis-Sinclair (`eam.fs`) or funcfl (`eam`)"
_COMMENT_LINES = 3
_FEWEST = 5
"""Values of a table that slopes of fourth order need."""
HARTREE, BOHR = 27.2, 0.529
"""eV and Å, as those who made funcfl files and those who read them rounded them."""


def read_eam(path: str | os.PathLike[str]) -> EAMTables:
    """Read the file of an embedded-atom potential; its form is recognized.

    Raises
    ------
    InputError
        If there is no such file, or it is damaged or something else; the text names the line and what was expected.
    """
    text = PotentialText(path, _KIND)
    if _is_funcfl(text):
        return _funcfl(text)
    text.skip_comment_lines(_COMMENT_LINES)
    expected = "the number of elements and their symbols"
    words = text.words(expected)
    count = text.count(words[0], expected)
    if len(words) != count + 1:
        text.refuse(f"has {len(words) - 1} words after {count} where {expected} should stand")
    elements = tuple(text.element(word) for word in words[1:])
    if len(set(elements)) < count:
        text.refuse("names an element twice")
    grid = _Grid(text, text.words(_Grid.expected))
    embedding: list[torch.Tensor] = []
    densities: list[torch.Tensor] = []  # of an atom of each element, wherever it is felt: [T, m]
    for row, symbol in enumerate(words[1:]):
        expected = f"the atomic number of {symbol}, its mass, lattice constant and lattice"
        header = text.words(expected)
        if not 3 <= len(header) <= 4 or header[0] != str(elements[row]):
            text.refuse(f"has {shown(' '.join(header))} where {expected} should stand")
        embedding.append(_values(text, grid.num_densities, f"the embedding energies of {symbol}"))
        felt = [_values(text, grid.num_distances, f"the densities of {symbol}")] * count
        if row == 0:
            of_pairs = count > 1 and _are_numbers(text.peek())
        if of_pairs:
            for at in range(1, count):
                felt[at] = _values(text, grid.num_distances, f"the densities of {symbol} at {words[1 + at]}")
        densities.append(torch.stack(felt))
    density = torch.stack(densities, dim=1)
    pair = torch.empty_like(density)
    for row in range(count):
        for column in range(row + 1):
            what = f"the pair energies times distance of {words[1 + row]}-{words[1 + column]}"
            pair[row, column] = pair[column, row] = _values(text, grid.num_distances, what)
    text.finish()
    return EAMTables(
        elements,
        torch.stack(embedding),
        density,
        pair,
        *grid.steps,
        comment=text.first_lines(_COMMENT_LINES),
        digest=text.digest,
    )


class _Grid:
    """The line with the sizes of the tables."""

    expected = "the number of densities, their step, the number of distances, their step, and the cutoff"

    def __init__(self, text: PotentialText, words: list[str]) -> None:
        if len(words) != 5:
            text.refuse(f"has {len(words)} words where {self.expected} should stand")
        self.num_densities = text.count(words[0], "the number of densities", _FEWEST)
        self.num_distances = text.count(words[2], "the number of distances", _FEWEST)
        density_step, distance_step = text.positive(words[1], "a step"), text.positive(words[3], "a step")
        cutoff = text.positive(words[4], "the cutoff")
        if cutoff > self.num_distances * distance_step * (1.0 + 1e-6):
            end = self.num_distances * distance_step
            text.refuse(f"has a cutoff of {cutoff:g} Å, and tables that end at {end:g} Å")
        self.steps = (density_step, distance_step, cutoff)


def _funcfl(text: PotentialText) -> EAMTables:
    """Read the old form for one element: effective charges instead of pair energies."""
    text.skip_comment_lines(1)
    words = text.words("the atomic number, mass, lattice constant and lattice")
    element = text.count(words[0], "the atomic number")
    grid = _Grid(text, text.words(_Grid.expected))
    embedding = _values(text, grid.num_densities, "the embedding energies")
    charges = _values(text, grid.num_distances, "the effective charges")
    density = _values(text, grid.num_distances, "the densities")
    text.finish()
    pair = HARTREE * BOHR * charges * charges
    # LAMMPS reads such a file onto a grid of its own, which ends one step earlier
    tables = (embedding[None, :-1], density[None, None, :-1], pair[None, None, :-1])
    return EAMTables((element,), *tables, *grid.steps, comment=text.first_lines(1), digest=text.digest)


def _is_funcfl(text: PotentialText) -> bool:
    """Whether the second line is that of an element, and the third that of sizes."""
    second, third = text.words_of(2), text.words_of(3)
    return (
        len(second) == 4
        and second[0].isdigit()
        and not _are_numbers(second)
        and len(third) == 5
        and _are_numbers(third)
    )


def _values(text: PotentialText, count: int, what: str) -> torch.Tensor:
    return torch.tensor(text.numbers(count, what), dtype=torch.float64)


def _are_numbers(words: list[str]) -> bool:
    """Whether a line holds values, as that of an element does not: it ends with the name of a lattice."""
    try:
        return bool(words) and all(float(word.lower().replace("d", "e")) is not None for word in words)
    except ValueError:
        return False
