"""Whatever stands in the place of a file of ours, reading runs nothing, writes nothing, and takes little."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from athanor.errors import StorageError
from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData
from athanor.testing.sink_contract import make_batch

from . import hostile_rig, old_store_rig


def test_no_loader_runs_code_or_writes(tmp_path: Path) -> None:
    command = [sys.executable, hostile_rig.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *bad, summary, of_a_pickle, of_a_name, of_a_file = done.stdout.splitlines()
    assert [line for line in bad if line] == []
    read, told, seconds, megabytes = (float(summary.split()[place]) for place in (0, 2, 6, 8))
    assert told > 1000
    assert read > 500
    assert seconds < 10.0  # of work; some 0.3
    assert megabytes < 200
    assert "os.system" in of_a_pickle
    assert "wave" in of_a_name
    assert "secret" in of_a_file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    with ZarrData(tmp_path / "t.zarr") as sink:
        sink.write(make_batch(0))
    return tmp_path / "t.zarr"


@pytest.mark.parametrize("name", ["LOCK", "commits.log", "tail"])
def test_who_writes_to_a_store_writes_nowhere_else(store: Path, tmp_path: Path, name: str) -> None:
    """Mutant: a lock that is opened through a link, and told who has it, is the end of what the link points to."""
    elsewhere = tmp_path / "elsewhere"
    (store / name).rename(elsewhere)
    if name == "LOCK":
        elsewhere.write_text("years of work", encoding="utf-8")
    (store / name).symlink_to(elsewhere)
    before = _files(elsewhere)
    for use in (ZarrData, repair_store, rewrite_store):
        with pytest.raises(StorageError):
            use(store)
        assert _files(elsewhere) == before
    with suppress(StorageError):  # it may be emptied, and the link with it
        ZarrData(store, mode="w")
    assert _files(elsewhere) == before


def _files(place: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (place, *place.rglob("*")) if path.is_file()}


def test_a_store_behind_a_link_is_written_anew_where_it_is(store: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / "t.zarr"
    link.symlink_to(store)
    before = store.stat().st_ino
    assert rewrite_store(link) == 3
    assert link.is_symlink()
    assert store.stat().st_ino != before
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["t.zarr"]
    assert len(ZarrData(link, mode="r")) == 3


def test_damage_of_old_stores_is_told_or_harmless(tmp_path: Path) -> None:
    found = list(old_store_rig.cases(150, tmp_path))
    assert {outcome for outcome, _, _ in found} == {"right", "told"}
    assert sum(outcome == "told" for outcome, _, _ in found) > 50
    assert max(grown for _, _, grown in found) < 200_000
    assert max(seconds for _, seconds, _ in found) < 10.0  # of work; some 0.03


@pytest.mark.parametrize("level", ["systems", "nodes"])
@pytest.mark.parametrize("files", old_store_rig.originals(), ids=old_store_rig.NAMES)
def test_an_old_store_holds_no_more_than_its_files_can(files: dict[str, bytes], level: str, tmp_path: Path) -> None:
    """Mutant: rows that the commit record counts are believed, and memory for them is asked for."""
    record = old_store_rig.head_of(files) | {level: 2**40}
    old_store_rig.write(files | {"head.json": old_store_rig.sealed(json.dumps(record).encode())}, tmp_path)
    with pytest.raises(StorageError, match=r"has no files for the 1099511627776 (node|system) rows"):
        TrajectoryReader(tmp_path)


@pytest.mark.parametrize("files", old_store_rig.originals(), ids=old_store_rig.NAMES)
def test_a_flipped_bit_in_an_old_store_is_told(files: dict[str, bytes], tmp_path: Path) -> None:
    """Mutant: a chunk whose checksum is not looked at."""
    old_store_rig.write(files, tmp_path)
    for name, raw in files.items():
        if name.endswith("zarr.json") or name.startswith("presence/"):
            continue  # what is compared with the commit record, and what is not read
        for byte in range(0, len(raw), 11):
            if raw[byte : byte + 1].isspace():
                continue
            changed = bytearray(raw)
            changed[byte] ^= 1
            (tmp_path / name).write_bytes(bytes(changed))
            with pytest.raises(StorageError):
                TrajectoryReader(tmp_path).rows(slice(None))
        (tmp_path / name).write_bytes(raw)
    assert len(TrajectoryReader(tmp_path)) > 3
