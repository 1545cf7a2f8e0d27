"""Damage stores in every way, with checksums that are right again, and use them: right data, or an error of storage.

By hand: ``python tests/reliability/damage_rig.py 20000``; prints what came of it, the longest time, the most memory.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numcodecs.blosc import Blosc

from athanor.errors import AthanorError, StorageError
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.io.store.maintenance import repair_store, rewrite_store
from athanor.io.store.records import LOG_HEADER_BYTES, crc32c, frame, log_header, records
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData
from athanor.testing.sink_contract import make_batch

Files = dict[str, bytes]
LAYOUTS: tuple[tuple[int, dict[str, int], bool], ...] = (
    (6, {"shard_bytes": 1024, "buffer_bytes": 3000}, False),
    (4, {"shard_bytes": 2048, "buffer_bytes": 0}, True),
    (3, {}, False),
)
"""Frames, layout, whether the store is closed."""
NUMBERS = (-1, 0, 1, 2, 2**31, 2**40, 2**61, 2**62, 2**63 - 1, -(2**63))
VALUES: tuple[Any, ...] = (
    *NUMBERS, 2**63, 2**64, 10**400, 1.5, 1e308, float("nan"), float("inf"), None, True, False, "", "x", "../x",
    "/etc/passwd", "tail/0000000009.log", "float64", "|O", "V8", "i4,i4", "(10000000,)f8", "M8[s]", "S100000", "f16",
    ">f8", "data/positions", "structures/atomic_numbers", "node", "system", [], {}, [[]], [1] * 40, [2**31] * 8,
)  # fmt: skip


def write(store: Path, step: int, **options: Any) -> None:
    """Append one frame."""
    with ZarrData(store, durability="frame", **options) as sink:
        sink.write(batch_of(step))


def batch_of(step: int) -> Any:
    batch = make_batch(0, (2, 1, 3))
    batch.step = torch.full((3, 1), step)
    batch.positions += step
    return batch


def originals(place: Path) -> list[tuple[Files, dict[str, np.ndarray]]]:
    """Whole stores, and what is in them."""
    found = []
    for number, (frames, layout, is_closed) in enumerate(LAYOUTS):
        store = place / str(number)
        sink = ZarrData(store, durability="frame", config=layout)
        for step in range(frames):
            sink.write(batch_of(step))
        sink.close() if is_closed else sink.abandon()
        files = {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()}
        found.append((files, TrajectoryReader(store).rows(slice(None)).columns))
    return found


def damage_bytes(chance: random.Random, raw: bytes) -> bytes:
    """Flip, cut, put in, swap, overwrite, take out."""
    data = bytearray(raw or b"\0")
    for _ in range(chance.choice([1, 1, 2, 5])):
        place, size = chance.randrange(len(data) or 1), chance.choice([1, 4, 8, 40])
        how = chance.randrange(6)
        if how == 0 and data:
            data[place] ^= 1 << chance.randrange(8)
        elif how == 1:
            del data[place:]
        elif how == 2:
            data[place:place] = chance.randbytes(size)
        elif how == 3:
            other = chance.randrange(len(data) or 1)
            data[place : place + size] = data[other : other + size]
        elif how == 4:
            data[place : place + size] = chance.choice([b"\xff", b"\0", b"\x7f", b"\x80"]) * size
        else:
            del data[place : place + size]
    return bytes(data)


def damage_json(chance: random.Random, value: Any) -> Any:
    """Change one thing somewhere in it."""
    if isinstance(value, dict) and value:
        changed, key, how = dict(value), chance.choice(list(value)), chance.randrange(8)
        if how == 0:
            del changed[key]
        elif how == 1:
            changed[chance.choice(["more", "name", "../x", "data/x", f"{key}x"])] = chance.choice(VALUES)
        else:
            changed[key] = damage_json(chance, value[key])
        return changed
    if isinstance(value, list) and value:
        changed_list, place, how = list(value), chance.randrange(len(value)), chance.randrange(8)
        if how == 0:
            del changed_list[place]
        elif how == 1:
            changed_list.insert(place, chance.choice(value))
        elif how == 2:
            chance.shuffle(changed_list)
        else:
            changed_list[place] = damage_json(chance, value[place])
        return changed_list
    if type(value) is int and chance.random() < 0.5:
        return value + chance.choice([1, -1, 10, 1000, 2**20, 2**28, 2**34])
    return chance.choice(VALUES)


def damaged_text(chance: random.Random, value: Any) -> bytes:
    """JSON of something changed; now and then very deep, or with a very long number."""
    text = json.dumps(damage_json(chance, value))
    if chance.random() < 0.05:
        depth = chance.choice([100, 5000, 200_000])
        text = text.replace(chance.choice(["1", "0", "2", "null", "[]"]), "[" * depth + "]" * depth, 1)
    elif chance.random() < 0.03:
        text = text.replace("1", "1" * chance.choice([100, 5000, 100_000]), 1)
    return text.encode()


def damage_arrays(chance: random.Random, payload: bytes) -> bytes:
    """The header of a record of arrays, or numbers in it."""
    (length,) = struct.unpack_from("<Q", payload)
    body = 8 + length
    if chance.random() < 0.5:
        header = damaged_text(chance, json.loads(payload[8:body]))
        return struct.pack("<Q", len(header)) + header + payload[body:]
    data = bytearray(payload)
    for _ in range(chance.choice([1, 2, 4])):
        place = body + 8 * chance.randrange(max(1, (len(data) - body) // 8))
        data[place : place + 8] = struct.pack("<q", chance.choice(NUMBERS))
    return bytes(data)


def damage_log(chance: random.Random, raw: bytes) -> bytes:
    """Records more or less, in another order, of another kind, with another content; checksums are right."""
    found = [(kind, payload) for kind, payload, _ in records(raw[LOG_HEADER_BYTES:])]
    how = chance.randrange(10)
    if not found or how == 0:
        found.insert(0, (chance.randrange(6), chance.randbytes(chance.choice([0, 3, 30]))))
    else:
        place = chance.randrange(len(found))
        kind, payload = found[place]
        if how == 1:
            found.insert(place, chance.choice(found))
        elif how == 2:
            del found[place]
        elif how == 3:
            found[place] = chance.randrange(6), payload
        elif how == 4:
            chance.shuffle(found)
        elif kind == 1:
            found[place] = kind, damaged_text(chance, json.loads(payload))
        else:
            found[place] = kind, damage_arrays(chance, payload)
    body = b"".join(frame(kind, payload) for kind, payload in found)
    return log_header(chance.choice([len(body)] * 8 + [0, 2**63, len(body) + 1])) + body


def damage_shard(chance: random.Random, raw: bytes) -> bytes:
    """An index, a header of Blosc, or numbers in a chunk; checksums are right."""
    for size in (16 << power for power in range(12)):
        listing = raw[-size - 4 : -4]
        if len(raw) >= size + 4 and crc32c(listing) == int.from_bytes(raw[-4:], "little"):
            break
    else:
        return damage_bytes(chance, raw)
    index, body = np.frombuffer(listing, dtype="<u8").reshape(-1, 2).copy(), raw[: -size - 4]
    here = np.flatnonzero(index[:, 0] < len(body))
    place, how = int(chance.choice(here)), chance.randrange(7)
    start, count = (int(value) for value in index[place])
    packed = bytearray(body[start : start + count - 4])
    plain = np.frombuffer(Blosc().decode(bytes(packed)), dtype=np.uint8).copy()
    numbers = plain[: len(plain) // 8 * 8].view(np.int64)
    if how == 0:
        index[place, chance.randrange(2)] = chance.choice([0, 4, 19, 20, 21, 2**31, 2**63, 2**64 - 1, len(raw)])
    elif how == 1:
        index[place] = index[int(chance.choice(here))]
    elif how == 2:
        offset, value = chance.choice([4, 8, 12]), chance.choice([0, 1, 16, 2**20, 2**31 - 1, 2**31, 2**32 - 1])
        packed[offset : offset + 4] = struct.pack("<I", value)
    elif how == 3:
        packed[chance.randrange(4)] = chance.randrange(256)
    elif how == 4:
        packed = bytearray(damage_bytes(chance, bytes(packed)))
    elif how == 5 and len(numbers):
        numbers[chance.randrange(len(numbers)) if chance.random() < 0.7 else slice(None)] = chance.choice(NUMBERS)
        packed = bytearray(Blosc(cname="zstd", clevel=1).encode(plain))
    else:
        np.random.default_rng(chance.randrange(2**31)).shuffle(numbers)
        packed = bytearray(Blosc(cname="zstd", clevel=1).encode(plain))
    if how > 1:
        index[place] = len(body), len(packed) + 4
        body += bytes(packed) + crc32c(bytes(packed)).to_bytes(4, "little")
    listing = index.tobytes()
    return body + listing + crc32c(listing).to_bytes(4, "little")


def damage(chance: random.Random, files: Files) -> bool:
    """Damage one file; whether its checksums tell."""
    name, how = chance.choice(sorted(files)), chance.random()
    if name.endswith(".log") and how < 0.8:
        files[name] = damage_log(chance, files[name])
        return False
    if "/c." in name and how < 0.8:
        files[name] = damage_shard(chance, files[name])
        return False
    if name.endswith(".json") and how < 0.6:
        files[name] = damaged_text(chance, json.loads(files[name]))
    elif how < 0.85:
        files[name] = damage_bytes(chance, files[name])
    elif how < 0.93:
        del files[name]
    else:
        files[name] = files[chance.choice(sorted(files))]
        return False
    return True


def _read(store: Path) -> Any:
    return TrajectoryReader(store).rows(slice(None)).columns


def _read_parts(store: Path) -> None:
    reader = TrajectoryReader(store)
    assert len(reader.num_atoms) == len(reader)
    reader.system_values("step")
    reader.frames(0)
    reader.read_rows([len(reader) - 1, 0])


def _cut(store: Path) -> None:
    with ZarrData(store) as sink:
        sink.truncate_to(min(3, len(sink)))


USES: tuple[Callable[[Path], Any], ...] = (
    _read,
    _read,
    lambda store: TrajectoryReader(store).read(),
    _read_parts,
    lambda store: check_store(Folder(store)),
    lambda store: write(store, 9),
    repair_store,
    _cut,
    rewrite_store,
)


def cases(count: int, place: Path, seed: str = "damage") -> Iterator[tuple[str, float, int]]:
    """Damage and use so many stores: what came of each, seconds of work, kilobytes that the program grew by."""
    whole = originals(place)
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        kept, wanted = chance.choice(whole)
        files = dict(kept)
        told = damage(chance, files)
        store = place / "t.zarr"
        for name, raw in files.items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(raw)
        use = chance.choice(USES)
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            found = use(store)
            outcome = "right"
            if use is _read and told:
                same = found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)
                outcome = "right" if same else f"case {number}: other data, silently"
        except StorageError:
            outcome = "told"
        except AthanorError as error:  # what was asked for is not there
            outcome = "told" if use is _read_parts else f"case {number}: {type(error).__name__}: {error}"
        except Exception as error:
            outcome = f"case {number}: {type(error).__name__}: {error}"
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        yield outcome, time.process_time() - started, grown
        shutil.rmtree(store)


def report(cases: Callable[[int, Path], Iterator[tuple[str, float, int]]], count: int, noun: str) -> None:
    """Print what came of so many cases, each of them an outcome, seconds of work and the memory that it took."""
    found: Counter[str] = Counter()
    slowest, most = (0.0, 0), (0, 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as place:
        for number, (outcome, seconds, grown) in enumerate(cases(count, Path(place))):
            found[outcome] += 1
            slowest, most = max(slowest, (seconds, number)), max(most, (grown, number))
    for outcome, times in found.most_common(20):
        print(f"{times:,} {outcome}")
    print(f"{count:,} {noun}; the slowest ({slowest[1]}) took {slowest[0]:.2f} s of work, "
          f"the largest ({most[1]}) {most[0] / 1024:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    report(cases, int(sys.argv[1]) if len(sys.argv) > 1 else 1000, "stores")
