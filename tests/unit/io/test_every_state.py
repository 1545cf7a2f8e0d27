"""One flipped bit or one missing file in a store of any state: an error that names it, and never other data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from athanor.errors import StorageError
from athanor.io.store import folder as folder_module
from athanor.io.store import records as records_module
from athanor.io.store import shards as shards_module
from athanor.io.store import state as state_module
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.io.store.maintenance import rewrite_store
from athanor.io.trajectory import TrajectoryReader

from .clouds import Cloud, Server
from .stores import make_rows, writer

NAMES = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 2500}
UNREAD = ("LOCK", "zarr.json")
"""Files that no frame is read from; `athanor store verify` looks at the second kind."""


def written(place: Path, steps: range, end: str = "end", **config: int) -> None:
    target = writer(place, "frame", **{**CONFIG, **config})
    for step in steps:
        target.append(*make_rows(step, names=NAMES))
    getattr(target, end)()


def new_frames_only(place: Path) -> None:
    written(place, range(3), buffer_bytes=10**7)


def arrays_and_log(place: Path) -> None:
    written(place, range(9))


def many_shards(place: Path) -> None:
    written(place, range(16), "close")


def one_shard_for_all(place: Path) -> None:
    written(place, range(6), "close", shard_bytes=1 << 20)


def a_replaced_shard_and_new_frames(place: Path) -> None:
    written(place, range(4), "close")
    written(place, range(4, 6), buffer_bytes=10**7)


def cut_back(place: Path) -> None:
    written(place, range(9), "close")
    target = writer(place, "frame", **CONFIG)
    target.truncate_to(7)
    target.end()


def cut_back_and_gone_on(place: Path) -> None:
    cut_back(place)
    written(place, range(40, 48), "close")


def written_anew(place: Path) -> None:
    written(place, range(9), "close")
    rewrite_store(place)


def copied_from_a_server(place: Path) -> None:
    server = Server()
    target = writer(Cloud(server), "frame", **CONFIG)
    for step in range(5):
        target.append(*make_rows(step, names=NAMES))
    for key, (value, _) in server.objects.items():
        (place / key).parent.mkdir(parents=True, exist_ok=True)
        (place / key).write_bytes(value)


STATES = (new_frames_only, arrays_and_log, many_shards, one_shard_for_all, a_replaced_shard_and_new_frames, cut_back,
          cut_back_and_gone_on, written_anew, copied_from_a_server)  # fmt: skip


def files_of(place: Path) -> list[Path]:
    return [path for path in sorted(place.rglob("*")) if path.is_file()]


def read(place: Path) -> dict[str, np.ndarray]:
    return TrajectoryReader(Folder(place)).rows(slice(None)).columns


def told(place: Path, file: Path, what: str, wanted: dict[str, np.ndarray]) -> bool:
    """Whether reading says that something is wrong, and with which file; raises if it gives other data."""
    named = file.relative_to(place).as_posix()
    try:
        found = read(place)
    except StorageError as error:
        complaint = str(error)
        if named in complaint or file.parent.name in complaint or _ends_a_row(file):  # then what goes with it is named
            return True
        raise AssertionError(f"{what} of {named} is not named") from error
    if what == "absence" and _ends_a_row(file):  # nothing tells how many objects there were
        wanted = {name: column[: len(found[name])] for name, column in wanted.items()}
    same = found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert same, f"{what} of {file.name}: other data, silently"
    return False


def _ends_a_row(file: Path) -> bool:
    """Whether it is the last object of a log that is a row of them."""
    return file.parent.suffix == ".log" and all(other.name <= file.name for other in file.parent.iterdir())


def count_unnoticed(place: Path, every: int = 37) -> tuple[int, list[str]]:
    """Flip, cut and remove; how many times, and what was not told."""
    wanted, tried, unnoticed = read(place), 0, []
    for file in files_of(place):
        if file.name in UNREAD:
            continue
        raw = file.read_bytes()
        damaged = {f"bit {byte % 8} of byte {byte}": _flipped(raw, byte) for byte in range(0, len(raw), every)}
        damaged |= {f"{length} bytes": raw[:length] for length in {0, len(raw) // 2, len(raw) - 1} if len(raw)}
        for what, content in damaged.items():
            file.write_bytes(content)
            tried += 1
            if not told(place, file, what, wanted):
                unnoticed.append(f"{what} of {file.relative_to(place)}")
        file.unlink()
        tried += 1
        if not told(place, file, "absence", wanted):
            unnoticed.append(f"absence of {file.relative_to(place)}")
        file.write_bytes(raw)
    assert check_store(Folder(place)).problems == []
    return tried, unnoticed


def _flipped(raw: bytes, byte: int) -> bytes:
    changed = bytearray(raw)
    changed[byte] ^= 1 << byte % 8
    return bytes(changed)


@pytest.mark.parametrize("make", STATES, ids=lambda make: make.__name__)
def test_every_flip_and_every_missing_file_is_told_by_name(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "t.zarr")
    tried, unnoticed = count_unnoticed(tmp_path / "t.zarr")
    assert tried > 50
    if make is copied_from_a_server:
        unnoticed = [each for each in unnoticed if not each.endswith("commits.log/00000000")]  # a later one counts
        assert len(unnoticed) == 1
        assert unnoticed[0].startswith("absence of tail/")
    elif make is not cut_back:  # there, chunks of the last shard hold rows that nobody reads any more
        assert unnoticed == []


# ------------------------------------------------------------------------------------------------------ broken twins
def no_checksum_of_chunks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shards_module, "crc32c", lambda data: 7)


def no_checksum_of_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records_module, "crc32c", lambda data: 7)


def does_not_say_what_is_safe(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(folder_module, "log_header", lambda acknowledged: records_module.log_header(0))


def takes_what_is_missing_for_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(state_module, "_check_new", lambda medium: None)


TWINS = {
    no_checksum_of_chunks: one_shard_for_all,
    no_checksum_of_records: new_frames_only,
    does_not_say_what_is_safe: new_frames_only,
    takes_what_is_missing_for_nothing: many_shards,
}


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_what_looks_less_closely_is_found(twin: Callable[[pytest.MonkeyPatch], None], tmp_path, monkeypatch) -> None:
    twin(monkeypatch)
    TWINS[twin](tmp_path / "t.zarr")
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        assert count_unnoticed(tmp_path / "t.zarr", 5)[1] == []
