"""Whatever ASE accepts in `info` and `arrays`: what was written comes back from ASE equal, or is named as left out."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from athanor.errors import AthanorWarning
from athanor.io import write_structures

PROFILE = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
NAMES = st.one_of(
    st.sampled_from(
        ["bonds", "Z", "symbols", "species", "pos", "charge", "virial", "stress", "energy", "tags", "a", "a0"]
    ),
    st.sampled_from(["dipole", "magmom", "forces", "charges"]),
    st.sampled_from(
        ["Lattice", "pbc", "uid", "a b", "a=b", "", "1", "pos0", "positions1", "ä", 'q"', "x:y", "momenta"]
    ),
    st.text(max_size=5),
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.sampled_from([2**31, 2**63, -(2**63), 2**64 - 1, 0, 1.0])
)
SCALARS = st.one_of(NUMBERS, st.booleans(), st.none(), st.text(max_size=8))
DTYPES = st.sampled_from(["f8", "f4", "i8", "i4", "u8", "u1", "?", "U3", "c16", "S2"])
VALUES = st.one_of(
    SCALARS,
    st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner), max_leaves=5
    ),
    DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))),
    st.sampled_from(
        [np.int64(3), np.float32(0.5), np.bool_(True), object(), (1, 2), {1: 2}, np.eye(3), np.ones(9), np.ones(6)]
    ),
)


@st.composite
def labelled(draw: st.DrawFn) -> Atoms:
    """Argon atoms with anything on them."""
    atoms = Atoms("Ar3", positions=np.arange(9.0).reshape(3, 3), cell=[9, 9, 9], pbc=[True, True, False])
    atoms.info = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    for name in draw(st.lists(NAMES, max_size=3, unique=True)):
        shape = draw(st.sampled_from([(3,), (3, 2), (3, 1), (3, 3), (3, 2, 2)]))
        atoms.arrays[name] = draw(hnp.arrays(draw(DTYPES), shape))
    return atoms


def with_labels(info: dict[Any, Any], **arrays: np.ndarray) -> Atoms:
    atoms = Atoms("Ar3", positions=np.arange(9.0).reshape(3, 3), cell=[9, 9, 9], pbc=[True, True, False])
    atoms.info.update(info)
    atoms.arrays.update(arrays)
    return atoms


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "x.extxyz"


@PROFILE
@given(atoms=labelled())
@example(atoms=with_labels({"bonds": [[0, 1], [2]], "large": 2**63, "larger": 2**70}))
@example(atoms=with_labels({}, Z=np.array([1, 2, 3]), symbols=np.array(["H", "He", "Li"])))
@example(atoms=with_labels({}, words=np.array(["one", "two", "three"], dtype=object), site=np.array([2**31, 0, 1])))
@example(atoms=with_labels({"virial": np.arange(9.0).reshape(3, 3)}, a=np.ones((3, 2)), a0=np.ones(3)))
@example(atoms=with_labels({"energy": None, "dipole": "x"}, charges=np.array(["one", "two", "three"])))
def test_it_comes_back_or_is_named(atoms: Atoms, file: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_structures(file, [atoms, atoms])
    told = "".join(str(entry.message) for entry in caught if isinstance(entry.message, AthanorWarning))
    with file.open(encoding="utf-8") as lines:  # ASE would read it as the locale says
        found = read(lines, ":", format="extxyz")
    for back in found:
        assert back.symbols.get_chemical_formula() == "Ar3"
        assert np.array_equal(back.positions, atoms.positions)
        assert np.array_equal(back.cell.array, atoms.cell.array)
        assert back.pbc.tolist() == [True, True, False]
        results = back.calc.results if back.calc is not None else {}
        found = {**results, **back.info}
        for key, value in atoms.info.items():
            if f"`{key}`" not in told:
                assert str(key) in found, key
                assert key in results or same(value, found[str(key)]), (key, value, found[str(key)])
        columns = {**results, **back.arrays}
        for name, values in atoms.arrays.items():
            if f"`{name}`" not in told:
                assert (
                    np.allclose(columns[name], np.squeeze(values), atol=1e-8, equal_nan=True)
                    if (values.dtype.kind in "fiub")
                    else columns[name].tolist() == np.squeeze(values).tolist()
                ), name


def same(given: Any, found: Any) -> bool:
    """Equal as Python compares, NaN with itself, and lists with arrays."""
    given, found = (value.tolist() if isinstance(value, np.ndarray | np.generic) else value for value in (given, found))
    if isinstance(given, list | tuple):
        return isinstance(found, list) and len(given) == len(found) and all(map(same, given, found))
    if isinstance(given, dict):
        return isinstance(found, dict) and given.keys() == found.keys() and all(same(given[k], found[k]) for k in given)
    if isinstance(given, float) and math.isnan(given):
        return isinstance(found, float) and math.isnan(found)
    return bool(given == found) and isinstance(given, bool) == isinstance(found, bool)
