"""Checkpoints: what is damaged, incomplete or not finite is refused by name, and what came in stands on record."""

from __future__ import annotations

import hashlib
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ase.build import bulk

import athanor
from athanor.errors import InputError
from athanor.models import DemoModelWrapper, tensor_file
from athanor.models.chgnet import CHGNetWrapper, weights
from athanor.models.chgnet.layout import check_checkpoint, expected_shapes
from athanor.models.demo import build_demo_model

DAMAGES: dict[str, Callable[[bytearray, random.Random], None]] = {
    "a bit": lambda content, rng: content.__setitem__(rng.randrange(len(content)), rng.randrange(256)),
    "a block": lambda content, rng: _overwrite(content, rng, rng.randbytes(64)),
    "a page of zeros": lambda content, rng: _overwrite(content, rng, bytes(1024)),
    "a cut": lambda content, rng: content.__delitem__(slice(rng.randrange(len(content)), None)),
    "a hole": lambda content, rng: content.__delitem__(slice(place := rng.randrange(len(content)), place + 100)),
}


def _overwrite(content: bytearray, rng: random.Random, block: bytes) -> None:
    place = rng.randrange(len(content) - len(block))
    content[place : place + len(block)] = block


def silent_damage(folder: Path, count: int) -> int:
    """Return how many of `count` damaged files load with other numbers; all others are refused, or load unchanged."""
    whole, path = folder / "whole.pt", folder / "damaged.pt"
    build_demo_model(num_atom_types=20, hidden_dim=16).export_model(whole)
    expected = DemoModelWrapper.from_checkpoint(whole).state_dict()
    content, rng, silent = whole.read_bytes(), random.Random(7), 0
    for number in range(count):
        damaged = bytearray(content)
        list(DAMAGES.values())[number % len(DAMAGES)](damaged, rng)
        path.write_bytes(damaged)
        try:
            loaded = DemoModelWrapper.from_checkpoint(path).state_dict()
        except InputError:
            continue
        silent += any(not torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    return silent


def test_no_damaged_file_gives_other_numbers(tmp_path: Path) -> None:
    assert silent_damage(tmp_path, 250) == 0


def test_the_twin_that_does_not_compare_checksums_loads_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "_check_whole", lambda path, content, packed: None)
    assert silent_damage(tmp_path, 50) > 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello\n" * 100, "is no checkpoint"),
        (b"PK\x03\x04" + bytes(100), "the end of the archive is missing"),
        (b"\x80\x02}q\x00.", "damaged or no checkpoint|not a file of tensors only"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "text.pt"
    path.write_bytes(content)
    for load in (CHGNetWrapper.from_checkpoint, DemoModelWrapper.from_checkpoint):
        with pytest.raises(InputError, match=words) as caught:
            load(path)
        assert "trust" not in str(caught.value) or content.startswith(b"\x80")


class Written:
    """A class that the installed version may lack."""


def written(path: Path) -> str:
    """Write a whole pickle; return its SHA-256."""
    torch.save(Written(), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_whole_pickle_runs_if_it_is_trusted_or_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "whole.pt"
    digest = written(path)
    with pytest.raises(InputError, match=r"can do whatever you can do.*`trust=True`: `--trust-model`.*`trust: true`"):
        tensor_file.read_tensor_file(path)
    found, stamp = tensor_file.read_tensor_file(path, trust=True)
    assert (type(found).__name__, stamp) == ("Written", f"sha256:{digest}")
    monkeypatch.setitem(tensor_file.KNOWN_PICKLES, digest, "a package: whole.pt")
    assert type(tensor_file.read_tensor_file(path)[0]).__name__ == "Written"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(InputError):
        tensor_file.read_tensor_file(path)


def test_a_class_that_is_not_there_is_told_from_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "newer.pt"
    written(path)
    monkeypatch.delattr(sys.modules[Written.__module__], "Written")
    with pytest.raises(InputError, match=r"another version of a package .*Written.*Install the version that wrote it"):
        tensor_file.read_tensor_file(path, trust=True)


def test_folders_and_devices(tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is a folder"), (Path("/dev/zero"), "no regular file")):
        if path.exists():
            with pytest.raises(InputError, match=words):
                DemoModelWrapper.from_checkpoint(path)


def test_a_member_that_is_marked_as_a_folder_is_damage(tmp_path: Path) -> None:
    """PyTorch reads nothing of it, and no checksum covers the mark."""
    path = tmp_path / "model.pt"
    build_demo_model(num_atom_types=20, hidden_dim=16).export_model(path)
    with zipfile.ZipFile(path) as archive:
        name, start = archive.namelist()[-4].encode(), archive.start_dir
    content = bytearray(path.read_bytes())
    header = content.index(b"PK\x01\x02", content.rindex(name, start) - 50)
    content[header + 38] |= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"`{name.decode()}` in it is marked as a folder"):
        DemoModelWrapper.from_checkpoint(path)


def test_a_compressed_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50_000_000))
    with pytest.raises(InputError, match=r"`bomb/data\.pkl` is compressed"):
        DemoModelWrapper.from_checkpoint(path)


def test_a_demo_model_with_a_tensor_missing_or_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "demo.pt"
    state = dict(build_demo_model(num_atom_types=20, hidden_dim=8).model.state_dict())
    name = next(name for name in state if name != "embedding.weight")
    torch.save({key: value for key, value in state.items() if key != name}, path)
    with pytest.raises(InputError, match=f"holds no whole DemoModel.*{name}"):
        DemoModelWrapper.from_checkpoint(path)
    torch.save({**state, name: torch.full_like(state[name], torch.nan)}, path)
    with pytest.raises(InputError, match="NaN or infinity"):
        DemoModelWrapper.from_checkpoint(path)


# --------------------------------------------------------------------------------------------------------------- CHGNet


@pytest.fixture(scope="module")
def shipped() -> weights.Checkpoint:
    pytest.importorskip("chgnet")
    return weights.load_checkpoint("0.3.0")


def save(path: Path, state: dict[str, Any], arguments: dict[str, Any]) -> Path:
    torch.save({"model": {"state_dict": state, "model_args": arguments}}, path)
    return path


@pytest.mark.chgnet
@pytest.mark.parametrize("name", weights.SHIPPED)
def test_the_arguments_tell_every_tensor(name: str) -> None:
    checkpoint = weights.load_checkpoint(name)
    shapes = {key: tuple(tensor.shape) for key, tensor in checkpoint.state.items()}
    assert expected_shapes(checkpoint.arguments, mlp_out_bias=name == "0.2.0") == shapes


@pytest.mark.chgnet
def test_no_tensor_may_be_missing_renamed_cut_or_not_finite(tmp_path: Path, shipped: weights.Checkpoint) -> None:
    """Among them the reference energies, without which Si8 had 7.1 instead of -42.5 eV in silence."""
    for name, tensor in shipped.state.items():
        rest = {key: value for key, value in shipped.state.items() if key != name}
        spoilt = tensor.clone()
        spoilt.view(-1)[-1] = torch.nan
        for state, words in (
            (rest, f"lacks the tensor `{name}`"),
            ({**rest, f"{name}_": tensor}, f"lacks the tensor `{name}`"),
            ({**shipped.state, f"{name}_": tensor}, f"has the tensor `{name}_`"),
            ({**rest, name: tensor[..., :-1]}, f"`{name}` of the checkpoint is"),
            ({**rest, name: tensor.long()}, f"`{name}` of the checkpoint is torch.int64"),
            ({**rest, name: [1.0]}, f"`{name}` of the checkpoint is"),
            ({**rest, name: spoilt}, f"`{name}` of the checkpoint holds NaN"),
        ):
            with pytest.raises(InputError) as caught:
                check_checkpoint(state, shipped.arguments)
            assert words in str(caught.value)
    path = save(tmp_path / "no-references.pt", rest, shipped.arguments)
    with pytest.raises(InputError, match="lacks the tensor"):
        CHGNetWrapper.from_checkpoint(path)


@pytest.mark.chgnet
@pytest.mark.parametrize(
    ("argument", "value"),
    [("n_conv", 10**9), ("n_conv", "4"), ("num_radial", -1), ("atom_graph_cutoff", float("nan")), ("n_conv", 3),
     ("mlp_hidden_dims", [64, 10**12]), ("cutoff_coeff", None), ("composition_model", None), ("gMLP_norm", None)],
)  # fmt: skip
def test_arguments_that_are_not_those_of_the_tensors(
    tmp_path: Path, shipped: weights.Checkpoint, argument: str, value: Any
) -> None:
    path = save(tmp_path / "other.pt", shipped.state, {**shipped.arguments, argument: value})
    with pytest.raises(InputError, match=f"`{argument}` of the checkpoint|checkpoint (has|lacks) the tensor"):
        CHGNetWrapper.from_checkpoint(path)


@pytest.mark.chgnet
def test_the_digest_of_a_file_stands_in_the_record(tmp_path: Path, shipped: weights.Checkpoint) -> None:
    path = save(tmp_path / "mine.pt", shipped.state, shipped.arguments)
    model = {"name": "chgnet", "options": {"name": str(path)}}
    athanor.relax(bulk("Si"), model=model, max_steps=1, out=tmp_path / "out")
    record = yaml.safe_load((tmp_path / "out" / "run.yaml").read_text(encoding="utf-8"))
    assert record["model"]["weights_digest"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
