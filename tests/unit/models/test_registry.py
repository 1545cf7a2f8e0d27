"""Names of models, ours and those of other packages."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import athanor.models
from athanor._optional import OptionalDependency
from athanor.errors import InputError, OptionalDependencyError
from athanor.models import registry
from athanor.models.catalogue import BUILT_IN
from athanor.models.lj import LennardJonesModelWrapper


def test_every_built_in_is_listed_with_what_it_needs() -> None:
    rows = {row.name: row for row in athanor.models.available()}
    assert {"chgnet", "lennard-jones", "demo"} <= set(rows)
    assert rows["chgnet"].install == 'pip install "athanor-md[chgnet]"'
    assert rows["chgnet"].num_elements == 89
    assert rows["demo"].installed
    assert rows["demo"].install == ""
    assert all(row.kind and row.licence and row.summary for row in BUILT_IN.values())


def test_names_are_forgiving_and_unknown_ones_list_what_there_is() -> None:
    for name in ("lennard-jones", "Lennard_Jones", "lj", " LJ "):
        assert isinstance(athanor.models.get(name, epsilon=1.0, sigma=1.0, cutoff=2.5), LennardJonesModelWrapper)
    with pytest.raises(ValueError, match=r"no model `wizardry`\. There are chgnet, chgnet-0\.2\.0, chgnet-r2scan, "):
        athanor.models.get("wizardry")


@pytest.mark.chgnet
def test_every_published_variant_of_chgnet_is_a_model_of_its_own() -> None:
    """The digests tell that each name has other parameters; the name of a file still goes with `chgnet`."""
    from athanor.models.chgnet.weights import SHIPPED

    names = {"0.3.0": "chgnet", "0.2.0": "chgnet-0.2.0", "r2scan": "chgnet-r2scan"}
    assert set(names) == set(SHIPPED)
    for variant, name in names.items():
        card = athanor.models.get(name).model_card
        assert card.name == f"CHGNet {variant}"
        assert card.weights_digest == f"sha256:{SHIPPED[variant][1]}"
    assert athanor.models.get("CHGNet_R2SCAN", dtype=torch.float64).dtype == torch.float64
    assert athanor.models.get("chgnet-0.3.0").model_card.name == "CHGNet 0.3.0"
    with pytest.raises(TypeError, match=r"model `chgnet-r2scan` has no keyword argument `name`.*device, dtype, trust"):
        athanor.models.get("chgnet-r2scan", name="0.2.0")


def test_demo_is_reproducible_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    one, two = athanor.models.get("demo", hidden_dim=8), athanor.models.get("demo", hidden_dim=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.model.projection.weight, two.model.projection.weight)
    assert not one.training


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, OptionalDependency.CHGNET.import_name, None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "athanor-md\[chgnet\]"'):
        athanor.models.get("chgnet")


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package that registers two models, the way pip leaves it on disk."""
    (tmp_path / "otherpackage.py").write_text(
        "from athanor.models.lj import LennardJonesModelWrapper\n"
        "def soft(cutoff=5.0):\n"
        "    return LennardJonesModelWrapper(0.1, 2.0, cutoff)\n"
        "def wrong():\n"
        "    return 'a model'\n",
        encoding="utf-8",
    )
    info = tmp_path / "otherpackage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: otherpackage\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[athanor.models]\nSoft_Spheres = otherpackage:soft\nwrong = otherpackage:wrong\ndemo = otherpackage:wrong\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield
    sys.modules.pop("otherpackage", None)


@pytest.mark.usefixtures("other_package")
def test_models_of_other_packages() -> None:
    rows = {row.name: row for row in athanor.models.available()}
    assert rows["Soft_Spheres"].kind == "third party"
    assert rows["Soft_Spheres"].summary == "from otherpackage"
    assert "otherpackage" not in sys.modules, "listing imports nothing"
    assert athanor.models.get("soft-spheres", cutoff=4.0).cutoff == 4.0
    assert rows["demo"].home.startswith("athanor."), "ours are not shadowed"
    with pytest.raises(TypeError, match="otherpackage:wrong returned a str for model `wrong`"):
        athanor.models.get("wrong")


def test_a_wrapper_of_the_package_itself_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of another package it does not; `mace` stands for a package that is not installed here."""
    (tmp_path / "mace.py").write_text(
        "from athanor.models.lj import LennardJonesModelWrapper\n"
        "def own(cutoff=5.0):\n"
        "    return LennardJonesModelWrapper(0.1, 2.0, cutoff)\n",
        encoding="utf-8",
    )
    (tmp_path / "stranger.py").write_text("def other():\n    return None\n", encoding="utf-8")
    for package, target in (("mace", "mace:own"), ("stranger", "stranger:other")):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[athanor.models]\nmace = {target}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert athanor.models.get("mace", cutoff=4.5).cutoff == 4.5
    row = next(row for row in athanor.models.available() if row.name == "mace")
    assert row.summary.endswith("by its own wrapper")
    assert [row.home for row in athanor.models.available() if row.name == "mace"] == ["mace:own"]
    sys.modules.pop("mace", None)


@pytest.mark.chgnet
def test_what_a_card_leaves_open_is_taken_from_the_list() -> None:
    card = athanor.models.get("chgnet").model_card
    assert card.training_set == BUILT_IN["chgnet"].training_set != ""


# --------------------------------------------------------------------------------------------------- sums, by name


def terms(name: str, **options) -> list[tuple[str, dict]]:
    return [(entry.name, given) for entry, given in registry.terms(name, options)]


def test_options_of_a_sum_go_to_the_model_that_takes_them() -> None:
    assert terms("lj", cutoff=3) == [("lennard-jones", {"cutoff": 3})]
    options = {"hidden_dim": 4, "epsilon": 0.1, "lennard_jones.sigma": 2.0, "lj.cutoff": 5.0}
    assert terms("demo+LJ", **options) == [
        ("demo", {"hidden_dim": 4}), ("lennard-jones", {"epsilon": 0.1, "sigma": 2.0, "cutoff": 5.0}),
    ]  # fmt: skip
    assert terms("chgnet + lj + chgnet", dtype="float64") == [
        ("chgnet", {"dtype": "float64"}), ("lennard-jones", {}), ("chgnet", {"dtype": "float64"}),
    ]  # fmt: skip
    model = athanor.models.get("demo + lj", epsilon=0.1, sigma=2.0, cutoff=5.0, hidden_dim=4)
    assert [group.steps[0].model.model_card.name for group in model.groups] == ["Demo", "Lennard-Jones"]
    assert model.groups[0].steps[0].model.model.hidden_dim == 4


@pytest.mark.usefixtures("other_package")
def test_mistakes_in_a_sum_say_how_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"`demo \+ lennard-jones` has no keyword argument `epsilo`. Did you"):
        athanor.models.get("demo + lj", epsilo=1.0)
    with pytest.raises(TypeError, match=r"`cutoff` is an option of lennard-jones and Soft_Spheres. Write"):
        athanor.models.get("lj + soft-spheres", cutoff=1.0)
    with pytest.raises(TypeError, match=r"`cutoff` may be for each of 2 lennard-jones. List them with their"):
        athanor.models.get("lj + lj", cutoff=1.0)
    with pytest.raises(TypeError, match="model `lennard-jones` needs `epsilon`, `sigma`, `cutoff`"):
        athanor.models.get("demo + lj")
    with pytest.raises(InputError, match=r"There is no model `ljj`. Did you mean `lj`"):
        athanor.models.get("demo + ljj")
    with pytest.raises(InputError, match=r"`demo \+` lacks a model beside a plus sign"):
        athanor.models.get("demo +")
