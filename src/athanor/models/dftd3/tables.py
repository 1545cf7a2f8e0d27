"""The reference data of D3: radii, and C6 with coordination numbers of reference molecules.

They come with the package (``reference.npz``, see NOTICE), as the decimal numbers that were published, each once: C6 of
two references is symmetric, and each reference has one coordination number. Nothing is downloaded.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from athanor.errors import InputError, MissingFileError
from athanor.models.tensor_file import read_tensor_file, write_tensor_file

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_ELEMENT = 94
REFERENCES = 5
"""References of an element at most."""

RADII_BOHR = 0.529177210903
"""Å in a bohr with which radii are converted: that of CODATA 2018, which the library s-dftd3 takes. It belongs to the
parameters of the method, since coordination numbers depend on the tenth digit of radii with a factor of sixteen."""

SHAPES = {
    "rcov": (MAX_ELEMENT + 1,),
    "r4r2": (MAX_ELEMENT + 1,),
    "c6ab": (MAX_ELEMENT + 1, MAX_ELEMENT + 1, REFERENCES, REFERENCES),
    "cn_ref": (MAX_ELEMENT + 1, MAX_ELEMENT + 1, REFERENCES, REFERENCES),
    "r0ab": (MAX_ELEMENT + 1, MAX_ELEMENT + 1),
}
"""Tables and their shapes; row 0 is padding."""

_FILES = ("dftd3.f", "pars.f")
_NUMBER = re.compile(r"\d+\.\d*(?:[DEde][+-]?\d+)?")


def load_dftd3_params(param_file: Path | str | None = None, auto_download: bool = True) -> dict[str, torch.Tensor]:
    """Return the tables of D3 as float64 tensors.

    Parameters
    ----------
    param_file
        A file that `save_dftd3_parameters` wrote, or another of the same names; by default the tables that come with
        the package. ``r0ab`` may be absent from it.
    auto_download
        Accepted for compatibility; nothing is downloaded.

    Returns
    -------
    dict
        ``rcov`` [95], scaled covalent radii, and ``r4r2`` [95], bohr; ``c6ab`` [95, 95, 5, 5], hartree·bohr⁶, zero
        where there is no reference; ``cn_ref`` [95, 95, 5, 5], coordination number of the reference of the first
        element; ``r0ab`` [95, 95], cutoff radii of pairs, bohr.

    Raises
    ------
    MissingFileError
        A `FileNotFoundError`, if there is no such file.
    InputError
        If it is damaged, lacks a table, or a table has the wrong shape.
    """
    if param_file is None:
        return {name: torch.from_numpy(table.copy()) for name, table in _packaged().items()}
    path = Path(param_file)
    if not path.exists():
        raise MissingFileError(
            f"There is no file `{path}` of D3 parameters. Leave `param_file` out to use those of the package."
        )
    content, _ = read_tensor_file(path)
    tables = dict(content) if isinstance(content, dict) else {}
    tables.setdefault("r0ab", torch.from_numpy(_packaged()["r0ab"].copy()))
    return _checked(tables, str(path))


def save_dftd3_parameters(parameters: Mapping[str, torch.Tensor], param_file: Path | str | None = None) -> Path:
    """Write tables of D3 for `load_dftd3_params`, and return where.

    Parameters
    ----------
    parameters
        As `load_dftd3_params` returns them.
    param_file
        File to write; ``dftd3_parameters.pt`` in the present folder by default.

    Raises
    ------
    InputError
        If a table is absent or has the wrong shape.
    StorageError
        If the file can not be written.
    """
    path = Path("dftd3_parameters.pt" if param_file is None else param_file)
    write_tensor_file(path, _checked(parameters, "`parameters`"))
    return path


def extract_dftd3_parameters(dftd3_ref_dir: Path | str | None = None) -> dict[str, torch.Tensor]:
    """Return the tables of D3 from the sources of the original program, ``dftd3.f`` and ``pars.f``.

    Parameters
    ----------
    dftd3_ref_dir
        Folder that holds them; by default the tables that come with the package are returned.

    Returns
    -------
    dict
        As from `load_dftd3_params`. The sources give radii with eight decimals.

    Raises
    ------
    MissingFileError
        A `FileNotFoundError`, if the folder or one of the files is missing.
    InputError
        If a table is not found in them.
    """
    if dftd3_ref_dir is None:
        return load_dftd3_params()
    folder = Path(dftd3_ref_dir)
    for path in (folder, *(folder / name for name in _FILES)):
        if not path.exists():
            raise MissingFileError(
                f"`{path}` does not exist. Give the folder with the sources {' and '.join(_FILES)} of the DFT-D3 "
                f"program, or no folder to use the tables of the package."
            )
    program, pars = ((folder / name).read_text(encoding="latin-1") for name in _FILES)
    tables: dict[str, torch.Tensor] = {}
    for name, place in (("rcov", r"rcov"), ("r4r2", r"r2r4")):
        found = re.search(rf"\bdata\s+{place}\s*/(.*?)/", program, re.DOTALL | re.IGNORECASE)
        tables[name] = torch.zeros(MAX_ELEMENT + 1, dtype=torch.float64)
        values = [] if found is None else _numbers(found.group(1))
        _require(len(values) == MAX_ELEMENT, folder / "dftd3.f", place)
        tables[name][1:] = torch.tensor(values, dtype=torch.float64)
    radii = _numbers(" ".join(re.findall(r"\br0ab\s*\([^)]*\)\s*=\s*\(/(.*?)/\)", program, re.DOTALL | re.IGNORECASE)))
    if radii:
        _require(len(radii) == MAX_ELEMENT * (MAX_ELEMENT + 1) // 2, folder / "dftd3.f", "r0ab")
        lower = np.tril_indices(MAX_ELEMENT)
        tables["r0ab"] = torch.from_numpy(_symmetric(lower, np.array(radii) / RADII_BOHR))
    lines = np.array(_numbers(" ".join(re.findall(r"\(/(.*?)/\)", pars, re.DOTALL))))
    _require(len(lines) > 0 and len(lines) % 5 == 0, folder / "pars.f", "pars")
    c6, cn = np.zeros(SHAPES["c6ab"]), np.full(SHAPES["cn_ref"], -1.0)
    for value, code_i, code_j, cn_i, cn_j in lines.reshape(-1, 5):
        (p, zi), (q, zj) = divmod(int(code_i), 100), divmod(int(code_j), 100)
        c6[zi, zj, p, q] = c6[zj, zi, q, p] = value
        cn[zi, zj, p, q], cn[zj, zi, q, p] = cn_i, cn_j
    tables |= {"c6ab": torch.from_numpy(c6), "cn_ref": torch.from_numpy(cn)}
    tables.setdefault("r0ab", torch.from_numpy(_packaged()["r0ab"].copy()))
    return _checked(tables, str(folder))


def references_of(c6ab: torch.Tensor, cn_ref: torch.Tensor) -> torch.Tensor:
    """Return the coordination number of each reference of each element, [95, 5]; -1 where there is none.

    Raises
    ------
    InputError
        If a reference has not the same number beside every other element, or not a C6 with each reference.
    """
    own = torch.arange(c6ab.shape[0], device=c6ab.device)
    there = c6ab[own, own].diagonal(dim1=1, dim2=2) > 0.0
    numbers = torch.where(there, cn_ref[own, own].diagonal(dim1=1, dim2=2), -1.0)
    both = there[:, None, :, None] & there[None, :, None, :]
    agree = torch.where(both, cn_ref == numbers[:, None, :, None], True)
    if not bool(agree.all()) or not torch.equal(both, c6ab > 0.0):
        raise InputError(
            "`c6ab` and `cn_ref` are no table of references: each reference of an element needs a C6 with every other "
            "one, and one coordination number."
        )
    return numbers


@functools.cache
def _packaged() -> dict[str, np.ndarray]:
    """Return the tables that come with the package."""
    file = resources.files("athanor.models.dftd3") / "reference.npz"
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        data = {name: stored[name] for name in stored.files}
    counts = data["references"].astype(np.int64)
    element = np.repeat(np.arange(1, MAX_ELEMENT + 1), counts)
    place = np.concatenate([np.arange(count) for count in counts])
    pairs = np.triu_indices(len(element))
    c6 = np.zeros(SHAPES["c6ab"])
    for one, other in (pairs, pairs[::-1]):
        c6[element[one], element[other], place[one], place[other]] = data["c6_1e4"] / 1e4
    numbers = np.full((MAX_ELEMENT + 1, REFERENCES), -1.0)
    numbers[element, place] = data["cn_1e4"] / 1e4
    z = np.arange(1, MAX_ELEMENT + 1)
    rcov, r4r2 = np.zeros((2, MAX_ELEMENT + 1))
    rcov[1:] = data["rcov_1e2"] / 1e2 * (4.0 / 3.0) / RADII_BOHR
    r4r2[1:] = np.sqrt(0.5 * (data["r4_over_r2_1e4"] / 1e4 * np.sqrt(z)))
    cn = np.where(c6 > 0.0, numbers[:, None, :, None], -1.0)
    r0 = _symmetric(np.triu_indices(MAX_ELEMENT), data["r0_1e4"] / 1e4 / RADII_BOHR)
    return {"rcov": rcov, "r4r2": r4r2, "c6ab": c6, "cn_ref": cn, "r0ab": r0}


def _symmetric(where: tuple[np.ndarray, ...], values: np.ndarray) -> np.ndarray:
    """Return the table [95, 95] that has `values` at one and the other place."""
    table = np.zeros(SHAPES["r0ab"])
    table[where[0] + 1, where[1] + 1] = table[where[1] + 1, where[0] + 1] = values
    return table


def _checked(tables: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Return the tables in float64, or refuse them."""
    checked = {}
    for name, shape in SHAPES.items():
        table = tables.get(name)
        if not isinstance(table, torch.Tensor) or tuple(table.shape) != shape:
            got = "is absent" if table is None else f"has shape {tuple(getattr(table, 'shape', ()))}"
            raise InputError(f"`{name}` {got} in {where}; D3 needs it with shape {shape}.")
        checked[name] = table.to(torch.float64)
    return checked


def _numbers(text: str) -> list[float]:
    return [float(number.lower().replace("d", "e")) for number in _NUMBER.findall(text)]


def _require(found: bool, path: Path, name: str) -> None:
    if not found:
        raise InputError(f"`{path}` has no table `{name}` as the DFT-D3 program has it. Get the file again.")
