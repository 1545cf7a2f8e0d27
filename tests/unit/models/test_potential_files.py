"""Files of potentials: what they hold is read, and what is wrong with one is told with its line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import InputError
from athanor.models.eam import EAMModelWrapper, read_eam
from athanor.models.eam.tables import cubic_pieces
from athanor.models.stillinger_weber import StillingerWeberModelWrapper, Terms, read_stillinger_weber
from athanor.neighbors import compute_neighbors
from athanor.testing.systems import fcc_crystal

POTENTIALS = Path(__file__).parents[2] / "data" / "potentials"


def test_the_forms_of_embedded_atom_files_are_told_apart() -> None:
    alloy, by_pairs, one = (read_eam(POTENTIALS / name) for name in ("CuAg.eam.alloy", "CuAg.eam.fs", "Cu.eam"))
    assert alloy.elements == by_pairs.elements == (29, 47)
    assert one.elements == (29,)
    assert alloy.cutoff == one.cutoff == 6.5
    assert alloy.density.shape == (2, 2, 400)
    assert torch.equal(alloy.density[0], alloy.density[1]), "an atom is felt alike by all"
    assert not torch.equal(by_pairs.density[0, 1], by_pairs.density[1, 1])
    assert torch.equal(alloy.pair[0, 1], alloy.pair[1, 0])
    torch.testing.assert_close(one.pair[0, 0], alloy.pair[0, 0, :-1], rtol=1e-9, atol=1e-9)
    assert "Sutton-Chen" in alloy.comment
    assert EAMModelWrapper(alloy).model_card.elements == {29, 47}


def test_pieces_go_through_values_and_follow_a_cubic_exactly() -> None:
    x = torch.arange(12, dtype=torch.float64)
    pieces = cubic_pieces(x**3 - 2.0 * x)
    inner, half = pieces[2:-3], torch.tensor([1.0, 0.5, 0.25, 0.125], dtype=torch.float64)
    middle = x[2:-3] + 0.5
    torch.testing.assert_close(inner @ half, middle**3 - 2.0 * middle, rtol=1e-13, atol=1e-12)
    ends = pieces[:-1].sum(-1)
    torch.testing.assert_close(ends, pieces[1:, 0], rtol=1e-13, atol=1e-12)


def changed(name: str, change: Callable[[list[str]], Any]) -> Callable[[Path], Path]:
    """Return what writes a file of ours with its lines changed in place."""

    def write(folder: Path) -> Path:
        lines = (POTENTIALS / name).read_text(encoding="utf-8").splitlines()
        change(lines)
        path = folder / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


def line(number: int, text: str) -> Callable[[list[str]], Any]:
    return lambda lines: lines.__setitem__(number - 1, text)


def without(first: int, last: int) -> Callable[[list[str]], Any]:
    return lambda lines: lines.__delitem__(slice(first - 1, last))


ALLOY, OLD, SILICON = "CuAg.eam.alloy", "Cu.eam", "Si.sw"


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (changed(ALLOY, line(4, "2 Cu Xx")), "line 4: has 'Xx' where the symbol of an element should stand"),
        (changed(ALLOY, line(4, "3 Cu Ag")), "line 4: has 2 words after 3 where the number of elements and their"),
        (changed(ALLOY, line(4, "2 Cu Cu")), "line 4: names an element twice"),
        (changed(ALLOY, line(5, "400 0.5 400 0.01629")), "line 5: has 4 words where the number of densities"),
        (changed(ALLOY, line(5, "400 0.5 400.5 0.01629 6.5")), "line 5: has '400.5' where the number of distances"),
        (changed(ALLOY, line(5, "400 -0.5 400 0.01629 6.5")), "line 5: has '-0.5' where a step, above 0"),
        (changed(ALLOY, line(5, "400 0.5 400 0.01 6.5")), "line 5: has a cutoff of 6.5 Å, and tables that end at 4 Å"),
        (changed(ALLOY, line(6, "28 63.5 3.61 fcc")), "line 6: has '28 63.5 3.61 fcc' where the atomic number of Cu"),
        (changed(ALLOY, line(7, "0.0 1.0 two 3.0 4.0")), "line 7: has 'two' where the embedding energies of Cu"),
        (changed(ALLOY, line(7, "0.0 1.0 nan 3.0 4.0")), "line 7: has 'nan' where the embedding energies of Cu"),
        (changed(ALLOY, line(86, "1 2 3 4 5 6")), "line 86: has 6 numbers where 5 are left of the embedding energies"),
        (changed(ALLOY, without(500, 600)), "the file ends where the pair energies times distance of Ag-Ag, of which"),
        (changed(ALLOY, lambda lines: lines.append("1.0")), "goes on with '1.0' where the file should end"),
        (changed(OLD, without(200, 300)), "the file ends where the densities, of which"),
        (changed(OLD, line(3, "400 0.5 400 0.016")), "where the number of elements and their symbols"),
    ],
)
def test_damaged_tables_are_refused(write: Callable[[Path], Path], text: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(InputError) as refusal:
        read_eam(path)
    assert text in str(refusal.value)
    assert str(path) in str(refusal.value)
    assert "embedded-atom" in str(refusal.value)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (changed(SILICON, line(3, "Si Si Xx")), "line 3: has 'Xx' where the symbol of an element"),
        (changed(SILICON, line(4, "2.1683 2.0951 1.8")), "the file ends where lambda_ should follow"),
        (
            changed(SILICON, line(4, "a b c d e f g h i j k")),
            "line 4: has 'a' where `epsilon` of Si Si Si should stand",
        ),
        (changed(SILICON, lambda lines: lines.extend(lines[2:4])), "line 6: has Si Si Si a second time"),
        (changed(SILICON, without(3, 4)), "the file has no parameters"),
        (changed(SILICON, line(4, "2.1 -2.0 1.8 21 1.2 -0.3 7 0.6 4 0 0")), "a `sigma` of -2, out of its range"),
        (changed(SILICON, lambda lines: lines.append("0.0")), "has '0.0' where the symbol of an element"),
    ],
)
def test_damaged_parameters_are_refused(write: Callable[[Path], Path], text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        read_stillinger_weber(write(tmp_path))
    assert text in str(refusal.value)
    assert "It should be a file of Stillinger-Weber parameters" in str(refusal.value)


@pytest.mark.parametrize("read", [read_eam, read_stillinger_weber])
def test_what_is_no_potential_is_refused(read: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        read(tmp_path / "nothing")
    with pytest.raises(InputError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\xff\x00")
    with pytest.raises(InputError, match="is no text"):
        read(tmp_path / "binary")
    (tmp_path / "empty").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"line [03]: the file"):
        read(tmp_path / "empty")
    with pytest.raises(InputError, match="line "):
        read(POTENTIALS / ("Si.sw" if read is read_eam else "Cu.eam"))


def test_exponents_of_fortran_are_read(tmp_path: Path) -> None:
    text = (POTENTIALS / "Cu.eam").read_text(encoding="utf-8")
    (tmp_path / "Cu.eam").write_text(text.replace("e+", "D+").replace("e-", "d-"), encoding="utf-8")
    assert torch.equal(read_eam(tmp_path / "Cu.eam").embedding, read_eam(POTENTIALS / "Cu.eam").embedding)


# ---------------------------------------------------------------------------------------------- Stillinger and Weber's


def test_the_card_names_the_file() -> None:
    """By the digest of its bytes, which goes into results."""
    models = [StillingerWeberModelWrapper.from_file(POTENTIALS / name) for name in ("Si.sw", "Si_tol.sw")]
    models += [EAMModelWrapper.from_file(POTENTIALS / name) for name in ("Cu.eam", "CuAg.eam.fs")]
    digests = [model.model_card.weights_digest for model in models]
    assert len(set(digests)) == 4
    expected = hashlib.sha256((POTENTIALS / "Si.sw").read_bytes()).hexdigest()
    assert digests[0] == f"sha256:{expected}"


@pytest.mark.parametrize(("name", "read"), [("CuAg.eam.alloy", read_eam), ("Si.sw", read_stillinger_weber)])
def test_other_units_are_refused(name: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    """LAMMPS says them in the first line. Mutant: numbers in kcal/mol taken for eV."""
    lines = (POTENTIALS / name).read_text(encoding="utf-8").splitlines()[1:]
    for units in ("metal", "real"):
        (tmp_path / units).write_text("\n".join([f"# DATE: 2007-06-11 UNITS: {units} CONTRIBUTOR: x", *lines]) + "\n")
    read(tmp_path / "metal")
    with pytest.raises(InputError, match=r"the units 'real' of LAMMPS; only `metal`"):
        read(tmp_path / "real")


def test_comments_are_read_in_any_encoding(tmp_path: Path) -> None:
    """Latin-1, a mark of byte order, and a form feed, which begins no line."""
    lines = (POTENTIALS / "CuAg.eam.alloy").read_text(encoding="utf-8").splitlines()
    expected = read_eam(POTENTIALS / "CuAg.eam.alloy").pair
    for number, first in enumerate(("von Müller, 3 Å".encode("latin-1"), b"\xef\xbb\xbfcopper", b"old\x0cprinter")):
        path = tmp_path / str(number)
        path.write_bytes(b"\r\n".join([first, *(line.encode() for line in lines[1:])]) + b"\r\n")
        assert torch.equal(read_eam(path).pair, expected)


@pytest.mark.parametrize("number", ["999999999", "9" * 20, "9" * 5000], ids=len)
def test_a_file_that_claims_too_much_is_refused_before_memory_is_asked_for(number: str, tmp_path: Path) -> None:
    def claim(lines: list[str]) -> None:
        lines[4] = f"{number} 0.5 {number} 0.016 6.5"

    with pytest.raises(InputError, match="line"):
        read_eam(changed("CuAg.eam.alloy", claim)(tmp_path))


def test_elements_are_chosen_from_a_file() -> None:
    both = StillingerWeberModelWrapper.from_file(POTENTIALS / "SiGe.sw")
    silicon = StillingerWeberModelWrapper.from_file(POTENTIALS / "SiGe.sw", elements=["Si"])
    assert both.model_card.elements == {14, 32}
    assert silicon.model_card.elements == {14}
    assert silicon.cutoff == pytest.approx(1.8 * 2.0951)
    batch = Batch.from_data_list([fcc_crystal(2.5, 32)])
    compute_neighbors(batch, config=silicon.model_config.neighbor_config)
    with pytest.raises(InputError, match=r"no parameters for Ge \(32\).*Choose a potential that was made for them"):
        silicon(batch)
    compute_neighbors(batch, 5.0, half_list=True)
    with pytest.raises(InputError, match="has each pair once; StillingerWeberModelWrapper needs both directions"):
        both(batch)


def test_parameters_that_contradict_or_are_missing_are_refused() -> None:
    terms, _ = read_stillinger_weber(POTENTIALS / "SiGe.sw")
    with pytest.raises(InputError, match="no Stillinger-Weber parameters for Si Ge Si; Si, Ge need them all"):
        StillingerWeberModelWrapper({key: value for key, value in terms.items() if key != (14, 32, 14)})
    other = Terms(2.0, 2.1, 1.8, 20.0, 1.2, -0.3, 7.0, 0.6, 4.0, 0.0)
    with pytest.raises(InputError, match="`epsilon` of Si Ge Ge is 2 and of Ge Si Si 2"):
        StillingerWeberModelWrapper(terms | {(14, 32, 32): other})
    weaker = replace(terms[14, 14, 32], lambda_=7.0)
    with pytest.raises(InputError, match="`lambda_` of Si Si Ge is 7 and of Si Ge Si"):
        StillingerWeberModelWrapper(terms | {(14, 14, 32): weaker})
    with pytest.raises(InputError, match="has the key 'Si'; name three elements"):
        StillingerWeberModelWrapper({"Si": other})
    with pytest.raises(InputError, match="`terms` names no element"):
        StillingerWeberModelWrapper({})
