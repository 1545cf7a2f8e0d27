"""Element symbols, standard atomic masses, and lookups between atomic numbers and consecutive indices.

Masses are the conventional standard atomic weights of IUPAC [1]_; for elements without a stable isotope, the mass of
a long-lived one. Z = 0 is a placeholder atom without a mass.

References
----------
.. [1] J. Meija et al., Pure Appl. Chem. 88, 265 (2016). doi:10.1515/pac-2015-0305
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from athanor._values import check_whole
from athanor.errors import InputError, ShapeError

_SYMBOLS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr "
    "Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir "
    "Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl "
    "Mc Lv Ts Og"
)
SYMBOLS: tuple[str, ...] = tuple(_SYMBOLS.split())
"""Symbol by atomic number; entry 0 is the placeholder ``X``."""

# fmt: off
ATOMIC_MASSES: tuple[float, ...] = (
    math.nan, 1.008, 4.002602, 6.94, 9.0121831, 10.81, 12.011, 14.007, 15.999, 18.998403163, 20.1797, 22.98976928,
    24.305, 26.9815385, 28.085, 30.973761998, 32.06, 35.45, 39.948, 39.0983, 40.078, 44.955908, 47.867, 50.9415,
    51.9961, 54.938044, 55.845, 58.933194, 58.6934, 63.546, 65.38, 69.723, 72.63, 74.921595, 78.971, 79.904, 83.798,
    85.4678, 87.62, 88.90584, 91.224, 92.90637, 95.95, 97.90721, 101.07, 102.9055, 106.42, 107.8682, 112.414,
    114.818, 118.71, 121.76, 127.6, 126.90447, 131.293, 132.90545196, 137.327, 138.90547, 140.116, 140.90766,
    144.242, 144.91276, 150.36, 151.964, 157.25, 158.92535, 162.5, 164.93033, 167.259, 168.93422, 173.054, 174.9668,
    178.49, 180.94788, 183.84, 186.207, 190.23, 192.217, 195.084, 196.966569, 200.592, 204.38, 207.2, 208.9804,
    208.98243, 209.98715, 222.01758, 223.01974, 226.02541, 227.02775, 232.0377, 231.03588, 238.02891, 237.04817,
    244.06421, 243.06138, 247.07035, 247.07031, 251.07959, 252.083, 257.09511, 258.09843, 259.101, 262.11, 267.122,
    268.126, 271.134, 270.133, 269.1338, 278.156, 281.165, 281.166, 285.177, 286.182, 289.19, 289.194, 293.204,
    293.208, 294.214,
)
# fmt: on
"""Standard atomic mass in amu by atomic number; entry 0 is NaN."""

MAX_ATOMIC_NUMBER = len(SYMBOLS) - 1


def symbols_of(atomic_numbers: Iterable[int]) -> str:
    """Return the symbols of elements in order, three or more that follow each other as ``"H to C"``."""
    runs: list[list[int]] = []
    for number in sorted(set(atomic_numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words: list[str] = []
    for run in runs:
        names = [SYMBOLS[number] for number in run]
        words += [f"{names[0]} to {names[-1]}"] if len(run) > 2 else names
    return ", ".join(words)


@functools.cache
def mass_table(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Masses by atomic number, amu, [119]; one tensor for each dtype and device."""
    return torch.tensor(ATOMIC_MASSES, dtype=dtype, device=device)


def standard_masses(atomic_numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the standard mass of each atom.

    Parameters
    ----------
    atomic_numbers
        Integer [N], 1 to 118.
    dtype
        Floating dtype of the result.

    Returns
    -------
    torch.Tensor
        amu, [N].

    Raises
    ------
    InputError
        If an atom has Z = 0, which has no mass.
    """
    if atomic_numbers.is_meta:
        return torch.empty(atomic_numbers.shape, dtype=dtype, device="meta")
    if atomic_numbers.numel() and bool((atomic_numbers == 0).any()):
        where = torch.nonzero(atomic_numbers == 0).flatten()[:3].tolist()
        raise InputError(
            f"`atomic_numbers` is 0 at atoms {where}; Z = 0 has no standard mass. "
            f"Pass `atomic_masses` for placeholder atoms, or correct the numbers."
        )
    return mass_table(dtype, atomic_numbers.device)[atomic_numbers.long()]


def number_of_symbol(symbol: str) -> int:
    """Return the atomic number of an element.

    Raises
    ------
    InputError
        If there is no such element; the text names the nearest.
    """
    if symbol not in SYMBOLS[1:]:
        near = f" Did you mean `{symbol.capitalize()}`?" if symbol.capitalize() in SYMBOLS[1:] else ""
        raise InputError(f"`{symbol}` is not the symbol of an element.{near} Symbols are written as `Ar`.")
    return SYMBOLS.index(symbol)


def number_of_element(element: int | str) -> int:
    """Return the atomic number of an element given by symbol or number.

    Raises
    ------
    InputError
        If there is no such element.
    """
    if isinstance(element, str):
        return number_of_symbol(element)
    number = check_whole(element, "atomic number", 1)
    if number > MAX_ATOMIC_NUMBER:
        raise InputError(f"{number} is not the atomic number of an element; they are 1 to {MAX_ATOMIC_NUMBER}.")
    return number


class AtomicNumberTable:
    """A fixed order of elements, for one-hot features and per-species parameters.

    Parameters
    ----------
    zs
        Atomic numbers in the order of their indices.
    """

    def __init__(self, zs: Sequence[int]) -> None:
        self.zs = list(zs)

    def __len__(self) -> int:
        return len(self.zs)

    def __str__(self) -> str:
        return f"AtomicNumberTable: {tuple(self.zs)}"

    def index_to_z(self, index: int) -> int:
        """Atomic number at `index`."""
        return self.zs[index]

    def z_to_index(self, atomic_number: int) -> int:
        """Index of `atomic_number`.

        Raises
        ------
        InputError
            If the element is not in the table.
        """
        try:
            return self.zs.index(int(atomic_number))
        except ValueError:
            raise InputError(
                f"`atomic_number` {int(atomic_number)} is not in the table, which holds {self.zs}. "
                f"Build the table with this element."
            ) from None


def atomic_numbers_to_indices(atomic_numbers: np.ndarray, z_table: AtomicNumberTable) -> np.ndarray:
    """Index of every atomic number in `z_table`, same shape."""
    flat = [z_table.z_to_index(z) for z in np.asarray(atomic_numbers).ravel()]
    return np.asarray(flat, dtype=np.int64).reshape(np.shape(atomic_numbers))


def to_one_hot(indices: torch.Tensor, num_classes: int) -> torch.Tensor:
    """One-hot rows [..., num_classes] in the default dtype for integer `indices` [..., 1]."""
    result = torch.zeros(*indices.shape[:-1], num_classes, device=indices.device)
    return result.scatter_(-1, indices.long(), 1.0)


def voigt_to_matrix(t: torch.Tensor) -> torch.Tensor:
    """Return the symmetric 3x3 matrix of a stress or virial in any common layout.

    Parameters
    ----------
    t
        Shape (3, 3), six Voigt entries in the order xx, yy, zz, yz, xz, xy, or nine entries row by row.

    Returns
    -------
    torch.Tensor
        [3, 3], same dtype and device.

    Raises
    ------
    ShapeError
        If `t` has another shape.
    """
    if t.shape == (3, 3):
        return t
    if t.shape == (6,):
        return t[torch.tensor([[0, 5, 4], [5, 1, 3], [4, 3, 2]], device=t.device)]
    if t.shape == (9,):
        return t.view(3, 3)
    raise ShapeError(f"Stress tensor must be of shape (3, 3), (6,) or (9,); `t` has shape {tuple(t.shape)}.")


def chemical_formula(numbers: Iterable[int]) -> str:
    """Return the formula of atoms by their numbers in Hill's order: carbon, hydrogen, then by letter.

    Examples
    --------
    >>> chemical_formula([17, 11, 17, 11]), chemical_formula([8, 1, 6, 1])
    ('Cl2Na2', 'CH2O')
    """
    counts = Counter(SYMBOLS[n] if 0 <= n <= MAX_ATOMIC_NUMBER else f"[{n}]" for n in numbers)
    first = [symbol for symbol in ("C", "H") if "C" in counts and symbol in counts]
    order = first + sorted(counts.keys() - set(first))
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)
