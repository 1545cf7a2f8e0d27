"""Lines in front of a sink that are broken on purpose: each is a twin that tests are to tell from the real one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from athanor.data.batch import Batch
from athanor.errors import StorageError
from athanor.sinks import AsyncSink
from athanor.sinks._background import Line, Waiting


def keeps_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Waiting, "copying", classmethod(lambda cls, frame, mask, streams: cls(lambda: frame, frame.num_graphs, mask))
    )


def last_one_first(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = Line._hand_over_first

    def twin(self: Any) -> None:
        with self._changed:
            self._waiting.rotate(1)
        hand_over(self)

    monkeypatch.setattr(Line, "_hand_over_first", twin)


def leaves_out_what_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    add = Line.add

    def twin(self: Any, write: Waiting) -> None:
        if len(self._waiting) < self._most:
            add(self, write)

    def without_waiting(self: Any) -> None:
        with self._changed:
            self._raise_error()

    monkeypatch.setattr(Line, "add", twin)
    monkeypatch.setattr(Line, "wait_for_room", without_waiting)


def swallows_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = Line._hand_over_first

    def twin(self: Any) -> None:
        hand_over(self)
        with self._changed:
            if self._error is not None and self._waiting:
                self._waiting.popleft()
            self._error = None

    monkeypatch.setattr(Line, "_hand_over_first", twin)


def drops_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = Line._hand_over_first

    def twin(self: Any) -> None:
        before = len(self._waiting)
        hand_over(self)
        with self._changed:
            if self._error is not None and len(self._waiting) >= before:
                self._waiting.popleft()

    monkeypatch.setattr(Line, "_hand_over_first", twin)


def stores_again_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    hand_over = Line._hand_over_first

    def twin(self: Any) -> None:
        first, stored = self._waiting[0], self.stored
        hand_over(self)
        with self._changed:
            if self._error is not None and self.stored > stored:
                self._waiting.appendleft(first)

    monkeypatch.setattr(Line, "_hand_over_first", twin)


def disturbs_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    write = AsyncSink.write

    def twin(self: Any, batch: Batch, mask: torch.Tensor | None = None) -> None:
        try:
            write(self, batch, mask)
        except StorageError:
            batch.velocities.mul_(0.999)
            raise

    monkeypatch.setattr(AsyncSink, "write", twin)
