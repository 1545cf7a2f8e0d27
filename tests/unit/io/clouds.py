"""A server of objects in memory, that may be busy, lose its answers or stop; and writers that take turns at it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

from athanor.io._store_lock import StoreLock
from athanor.io.store.shared import NEW, SharedObjects, TakenError, UnansweredError


class Server:
    """Objects and their versions, and how the requests end.

    Parameters
    ----------
    ending
        By the number of the request: ``""`` answers, ``"busy"`` does nothing, ``"lost"`` does it and does not answer.
    """

    def __init__(self, ending: Callable[[int], str] = lambda number: "") -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.ending = ending
        self.requests: list[tuple[str, str]] = []
        self.versions = 0

    def answer(self, what: str, key: str, do: Callable[[], Any]) -> Any:
        self.requests.append((what, key))
        ending = self.ending(len(self.requests))
        if ending == "busy":
            raise UnansweredError("503 Slow Down")
        found = do()
        if ending == "lost":
            raise UnansweredError("timed out")
        return found

    def put(self, key: str, value: bytes, condition: Any) -> None:
        there = self.objects.get(key)
        if (condition is NEW and there is not None) or (
            condition is not None and condition is not NEW and (there is None or there[1] != condition)
        ):
            raise TakenError(key)
        self.versions += 1
        # a server may name versions by content: what was there before, and is there again, has the version of before
        self.objects[key] = bytes(value), f"{hash(value)}"


class Cloud(SharedObjects):
    """One program's way to a server; `turn` is called before each request."""

    def __init__(self, server: Server, name: str = "a program", turn: Callable[[], None] = lambda: None) -> None:
        super().__init__(f"the cloud of {name}", pause=lambda seconds: None)
        self.server, self.turn = server, turn

    def lock(self) -> StoreLock:
        return StoreLock(str(id(self)), None, self.where)  # each is a program of its own

    def _ask(self, what: str, key: str, do: Callable[[], Any]) -> Any:
        self.turn()
        return self.server.answer(what, key, do)

    def fetch(self, key: str, start: int = 0, count: int | None = None, version: Any = None) -> bytes | None:
        def do() -> bytes | None:
            there = self.server.objects.get(key)
            if there is None:
                return None
            if version is not None and there[1] != version:
                raise TakenError(key)
            return there[0][start : None if count is None else start + count]

        found: bytes | None = self._ask("get", key, do)
        return found

    def look_at(self, key: str) -> tuple[int, Any] | None:
        def do() -> tuple[int, Any] | None:
            there = self.server.objects.get(key)
            return None if there is None else (len(there[0]), there[1])

        found: tuple[int, Any] | None = self._ask("head", key, do)
        return found

    def store(self, key: str, value: bytes, condition: Any = None) -> None:
        self._ask("put", key, lambda: self.server.put(key, value, condition))

    def remove(self, keys: Sequence[str]) -> None:
        self._ask("delete", ", ".join(keys), lambda: [self.server.objects.pop(key, None) for key in keys])

    def keys(self, prefix: str, after: str = "") -> list[str]:
        def do() -> list[str]:
            whole = prefix.rstrip("/")
            return [key for key in self.server.objects if key > after and (not whole or key.startswith(f"{whole}/"))]

        found: list[str] = self._ask("list", prefix, do)
        return found


class Turns:
    """Programs in threads, of which one at a time does one request; a seed says which, and nothing else.

    Some seeds let each program do many requests before the next one comes, so that others fall far behind.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._change = self._random.choice((1.0, 0.3, 0.1, 0.03))
        self._programs: list[_Program] = []

    def add(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._programs.append(_Program(run))

    def go(self) -> None:
        """Let all of them run to their end; raises what the first that failed has raised."""
        try:
            for program in self._programs:
                program.start()
            program = self._programs[0]
            while waiting := [each for each in self._programs if each.is_waiting()]:
                if program not in waiting or self._random.random() < self._change:
                    program = self._random.choice(waiting)
                program.go_on()
        finally:
            for program in self._programs:
                program.stop()
        for program in self._programs:
            if program.error is not None:
                raise program.error


class _Stopped(BaseException):
    pass


class _Program:
    def __init__(self, run: Callable[[Callable[[], None]], None]) -> None:
        self._may, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._is_done = self._is_stopped = False
        self.error: BaseException | None = None
        self._run = run
        self._thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        try:
            self._turn()
            self._run(self._turn)
        except _Stopped:
            pass
        except BaseException as error:
            self.error = error
        self._is_done = True
        self._waits.release()

    def _turn(self) -> None:
        if threading.current_thread() is not self._thread:  # parts of a log are read by several threads
            return
        self._waits.release()
        self._may.acquire()
        if self._is_stopped:
            raise _Stopped

    def start(self) -> None:
        self._thread.start()
        self._waits.acquire()

    def is_waiting(self) -> bool:
        return not self._is_done

    def go_on(self) -> None:
        self._may.release()
        self._waits.acquire()

    def stop(self) -> None:
        self._is_stopped = True
        while not self._is_done:
            self.go_on()
        self._thread.join()
