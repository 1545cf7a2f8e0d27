"""Names of models, ours and those of other packages."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import athanor.models
from athanor._optional import OptionalDependency
from athanor.errors import OptionalDependencyError
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.registry import BUILT_IN


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
    with pytest.raises(ValueError, match=r"no model `magic`\. There are chgnet, chgnet-0\.2\.0, chgnet-r2scan, "):
        athanor.models.get("magic")


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
