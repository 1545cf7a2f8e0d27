"""Damage stores of format version 0, with checksums that are right again, and read them: right data, or an error.

By hand: ``python tests/reliability/old_store_rig.py 20000``.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from athanor.errors import StorageError
from athanor.io.store.maintenance import rewrite_store
from athanor.io.store.records import crc32c
from athanor.io.trajectory import TrajectoryReader

if __package__:
    from .damage_rig import Files, damage_bytes, damage_json, damaged_text, report
else:
    from damage_rig import Files, damage_bytes, damage_json, damaged_text, report

DATA = Path(__file__).parents[1] / "data"
NAMES = ("store_with_presence_rows", "store_without_empty_chunks")
_LENGTH = struct.Struct("<Q")


def originals() -> list[Files]:
    """Stores that writers of version 0 left."""
    found = []
    for name in NAMES:
        with zipfile.ZipFile(DATA / f"{name}.zip") as archive:
            found.append({each: archive.read(each) for each in archive.namelist() if not each.endswith("/")})
    return found


def write(files: Files, store: Path) -> None:
    for name, raw in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_bytes(raw)


def head_of(files: Files) -> dict[str, Any]:
    """The commit record."""
    record: dict[str, Any] = json.loads(json.loads(files["head.json"])["record"])
    return record


def sealed(body: bytes) -> bytes:
    """A ``head.json`` whose checksum is right."""
    text = body.decode()
    return json.dumps({"crc32": zlib.crc32(text.encode()), "record": text}).encode()


def _block(chance: random.Random, files: Files, name: str) -> None:
    raw = files[name]
    if chance.random() < 0.7:
        (length,) = _LENGTH.unpack_from(raw, 4)
        header = damaged_text(chance, json.loads(raw[12 : 12 + length]))
        raw = raw[:4] + _LENGTH.pack(len(header)) + header + raw[12 + length :]
    else:
        raw = raw[:4] + damage_bytes(chance, raw[4:])
    files[name], record = raw, head_of(files)
    record["tail"][0] |= {"crc32": zlib.crc32(raw), "nbytes": len(raw)}
    files["head.json"] = sealed(json.dumps(record).encode())


def _chunk(chance: random.Random, raw: bytes) -> bytes:
    """Zstandard of something else, or what is no Zstandard; with its checksum."""
    from numcodecs.zstd import compress

    packed = raw[:-4]
    how = chance.randrange(3)
    if how == 0:
        packed = damage_bytes(chance, packed)
    elif how == 1:
        packed = bytes(compress(bytes(chance.choice([0, 1, 1000, 1 << 20, 1 << 25])), 1))
    else:
        numbers = np.random.default_rng(chance.randrange(2**31)).integers(-(2**63), 2**63 - 1, 1 << 17)
        packed = bytes(compress(numbers.tobytes(), 1))
    return packed + crc32c(packed).to_bytes(4, "little")


def damage(chance: random.Random, files: Files) -> None:
    """Damage one file."""
    name = chance.choice([*sorted(files), *["head.json"] * 8])
    if name == "head.json" and chance.random() < 0.9:
        files[name] = sealed(damaged_text(chance, head_of(files)))
    elif name.startswith("tail/"):
        _block(chance, files, name)
    elif name.endswith(".json"):
        files[name] = json.dumps(damage_json(chance, json.loads(files[name]))).encode()
    elif chance.random() < 0.7:
        files[name] = _chunk(chance, files[name])
    elif chance.random() < 0.5:
        del files[name]
    else:
        files[name] = damage_bytes(chance, files[name])


def use(chance: random.Random, store: Path) -> None:
    if chance.random() < 0.2:
        rewrite_store(store)
    reader = TrajectoryReader(store)
    reader.rows(slice(None))
    assert len(reader.num_atoms) == len(reader)


def cases(count: int, place: Path, seed: str = "old") -> Iterator[tuple[str, float, int]]:
    """Damage and use so many stores: what came of each, seconds of work, kilobytes that the program grew by."""
    whole, store = originals(), place / "t.zarr"
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        files = dict(chance.choice(whole))
        damage(chance, files)
        write(files, store)
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            use(chance, store)
            outcome = "right"
        except StorageError:
            outcome = "told"
        except Exception as error:
            outcome = f"case {number}: {type(error).__name__}: {str(error)[:200]}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        yield outcome, time.process_time() - started, grown
        shutil.rmtree(store)


if __name__ == "__main__":
    report(cases, int(sys.argv[1]) if len(sys.argv) > 1 else 1000, "stores")
