"""Trajectories in S3, against a server of moto that fails on demand.

`make test-remote` runs this, in an environment with obstore and moto; nothing else collects it.
"""

from __future__ import annotations

import io
import logging
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import obstore.store
import pytest
import zarr
from moto.server import DomainDispatcherApplication, create_backend_app
from tests.unit.io.stores import make_rows, writer
from werkzeug.serving import make_server

from athanor.errors import InputError, StorageError
from athanor.io.store.check import check_store
from athanor.io.store.folder import Folder
from athanor.io.store.places import open_medium
from athanor.io.store.remote import ObstoreObjects, is_remote
from athanor.io.trajectory import TrajectoryReader
from athanor.sinks import ZarrData

FIELDS = ("atomic_numbers", "positions", "system_id", "step")
CONFIG = {"shard_bytes": 1024, "buffer_bytes": 1500}
KEYS = {"access_key_id": "a", "secret_access_key": "b", "region": "us-east-1"}
QUIET = {"max_retries": 0}


class FailingServer:
    """The S3 of moto. `ending` says how each request ends, by its number.

    ``500`` and ``503`` are not done, ``lost`` is done and answered with 500, ``late`` is done and answered after the
    client has given up, ``cut`` is done and the connection closed.
    """

    def __init__(self) -> None:
        self.inner = DomainDispatcherApplication(create_backend_app)
        self.ending: Callable[[int], str] = lambda number: ""
        self.requests: list[tuple[str, str]] = []
        self._one_at_a_time = threading.Lock()

    def __call__(self, environment: dict, start: Callable) -> Iterator[bytes] | list[bytes]:
        with self._one_at_a_time:
            self.requests.append((environment["REQUEST_METHOD"], environment["PATH_INFO"]))
            ending = self.ending(len(self.requests))
            body = environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            if ending in ("500", "503"):
                start(f"{ending} failed", [("Content-Length", "0")])
                return [b""]
            environment["wsgi.input"] = io.BytesIO(body)
            answer: list = []
            found = b"".join(
                self.inner(environment, lambda *arguments: answer.extend(arguments) or (lambda data: None))
            )
        if ending == "lost":
            start("500 failed", [("Content-Length", "0")])
            return [b""]
        if ending == "late":
            time.sleep(0.6)
        if ending == "cut":
            raise ConnectionAbortedError
        start(*answer)
        return [found]


@pytest.fixture(scope="module")
def running():
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = FailingServer()
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield application, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def server(running, monkeypatch):
    application, address = running
    application.ending = lambda number: ""
    import boto3

    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket="bucket")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket"):
        for item in page.get("Contents", []):
            client.delete_object(Bucket="bucket", Key=item["Key"])
    for name, value in {
        "AWS_ENDPOINT": address, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    application.requests.clear()
    application.address = address
    return application


def bucket(server: FailingServer, **more: object) -> obstore.store.S3Store:
    options = {"allow_http": True, "timeout": "300ms"}
    return obstore.store.S3Store("bucket", prefix="runs/t.zarr", endpoint=server.address, client_options=options,
                                 retry_config=QUIET, **KEYS, **more)  # fmt: skip


def medium(server: FailingServer, name: str = "a program") -> ObstoreObjects:
    return ObstoreObjects(bucket(server), "", f"the bucket of {name}", pause=lambda seconds: None)


def steps_of(place: object) -> list[int]:
    found = TrajectoryReader(place).rows(slice(None))
    steps = found.columns["step"][::2, 0].tolist() if "step" in found.columns else []
    for name in FIELDS if steps else ():
        wanted = np.concatenate([make_rows(step, names=FIELDS)[0].columns[name] for step in steps])
        np.testing.assert_array_equal(found.columns[name], wanted, err_msg=name)
    return steps


def assert_whole(server: FailingServer) -> list[int]:
    server.ending = lambda number: ""
    assert check_store(medium(server)).problems == []
    return steps_of(medium(server))


def test_written_by_its_address_and_read_by_zarr(server):
    target = writer("s3://bucket/runs/t.zarr", "frame", **CONFIG)
    for step in range(6):
        target.append(*make_rows(step, names=FIELDS))
    target.close()
    assert steps_of("s3://bucket/runs/t.zarr") == list(range(6))
    wrapped = zarr.storage.ObjectStore(bucket(server))
    group = zarr.open_group(wrapped, mode="r")
    assert group["data/positions"].shape == (30, 3)
    assert steps_of(wrapped) == steps_of(bucket(server)) == list(range(6))
    target.truncate_to(4)
    target.append(*make_rows(9, names=FIELDS))
    target.close()
    assert assert_whole(server) == [0, 1, 9]


def test_a_sink_by_its_address(server):
    from ase.build import bulk

    from athanor import AtomicData, Batch

    batch = Batch.from_data_list([AtomicData.from_atoms(bulk("Cu", cubic=True)) for _ in range(2)])
    with ZarrData("s3://bucket/run/t.zarr", durability="frame") as sink:
        for _ in range(3):
            sink.write(batch)
    assert ZarrData("s3://bucket/run/t.zarr", mode="r").read().num_graphs == 6
    with pytest.raises(StorageError, match="holds a trajectory already"):
        ZarrData("s3://bucket/run/t.zarr", mode="x")


def write(server: FailingServer, steps: int = 4) -> int:
    acknowledged, target = 0, None
    try:
        target = writer(medium(server), "frame", **CONFIG)
        for step in range(steps):
            target.append(*make_rows(step, names=FIELDS))
            acknowledged = step + 1
        target.close()
    except StorageError:
        pass
    finally:
        if target is not None:
            target._let_go()
    return acknowledged


@pytest.mark.parametrize("ending", ["500", "503", "lost", "cut", "late"])
def test_requests_that_fail_now_and_then_are_asked_again(server, ending):
    """Every so many from some place on; the writer hears nothing of it, and no frame is lost or there twice."""
    every = 23 if ending == "late" else 7
    for first in (0, 2, 5):
        start = len(server.requests)
        server.ending = lambda number, first=first, start=start: ending if (number - start) % every == first else ""
        assert write(server) == 4
        assert assert_whole(server) == [0, 1, 2, 3]
        writer(medium(server), mode="w")._let_go()


@pytest.mark.parametrize("last", ["503", "lost", "cut"])
def test_the_server_may_go_at_any_request(server, last):
    write(server)
    requests = len(server.requests)
    for number in range(1, requests + 1, 7):
        bucket_of = bucket(server)
        obstore.delete(bucket_of, [item["path"] for item in obstore.list(bucket_of).collect()])
        begin = len(server.requests) + number
        server.ending = lambda each, begin=begin: last if each == begin else "503" if each > begin else ""
        acknowledged = write(server)
        server.ending = lambda each: ""
        try:
            steps = steps_of(medium(server))
        except FileNotFoundError:
            assert acknowledged == 0
            continue
        assert steps == list(range(len(steps)))
        assert acknowledged <= len(steps) <= acknowledged + 1
        after = writer(medium(server), "frame", **CONFIG)
        after.append(*make_rows(50, names=FIELDS))
        after.close()
        assert assert_whole(server) == [*steps, 50]


def test_two_writers_at_once(server):
    """In threads, with errors: each frame that either was promised is there, once, and the history is one line."""
    generator = random.Random(0)
    server.ending = lambda number: generator.choices(["", "503", "lost"], [0.96, 0.02, 0.02])[0]
    promised: list[list[int]] = [[], []]
    told: list[str] = []

    def program(number: int) -> None:
        target = None
        for step in range(1000 * number, 1000 * number + 15):
            try:
                if target is None:
                    place = medium(server, f"writer {number}")
                    target = writer(place, "frame", shard_bytes=1024 << number, buffer_bytes=1500)
                target.append(*make_rows(step, names=FIELDS))
                promised[number].append(step)
                if step % 7 == 0:
                    target.close()
            except StorageError as error:
                told.append(str(error))
                if target is not None:
                    target._let_go()
                target = None
        if target is not None:
            target._let_go()

    threads = [threading.Thread(target=program, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps = assert_whole(server)
    assert len(set(steps)) == len(steps)
    assert set(promised[0] + promised[1]) <= set(steps)
    assert told
    assert any("another writer" in text for text in told)


KILLED = """
import sys
from athanor.io.store.places import open_medium
sys.path.insert(0, sys.argv[1])
from stores import make_rows, writer
target = writer("s3://bucket/runs/t.zarr", "frame", shard_bytes=1024, buffer_bytes=1500)
for step in range(10**6):
    target.append(*make_rows(step, names=sys.argv[2:]))
    print(step + 1, flush=True)
"""


def test_a_process_that_is_killed(server, repository):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(repository / "tests" / "unit" / "io"), *FIELDS],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    acknowledged = 0
    for line in child.stdout:
        acknowledged = int(line)
        if acknowledged == 7:
            child.kill()
    child.wait()
    child.stdout.close()
    steps = assert_whole(server)
    assert steps == list(range(len(steps)))
    assert acknowledged <= len(steps) <= acknowledged + 1


def test_what_obstore_knows_is_opened(tmp_path):
    target = writer(obstore.store.MemoryStore(), "frame", **CONFIG)
    target.append(*make_rows(0, names=FIELDS))
    target.close()
    assert steps_of(target.medium) == [0]
    assert isinstance(open_medium(obstore.store.LocalStore(tmp_path)), Folder)
    with pytest.raises(InputError, match="is not an address of a store"):
        ZarrData("s3://")


@pytest.mark.parametrize(
    ("url", "remote"),
    [("s3://b/t", True), ("gs://b/t", True), ("abfss://c@a.dfs.core.windows.net/t", True), ("memory://t", False),
     ("https://b.s3.eu-west-1.amazonaws.com/t", True), ("https://example.org/t.zarr", False)],
)  # fmt: skip
def test_addresses(url, remote):
    assert is_remote(url) == remote
    if remote:
        assert isinstance(open_medium(url), ObstoreObjects)


def test_a_bucket_that_is_not_there(server):
    with pytest.raises(StorageError, match=r"can not be (read|opened)"):
        ZarrData("s3://nobodys/t.zarr")
