"""What a hook remembers of each system or atom, as state rows of the batch: they follow their systems."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from athanor.data._followers import new_key, take_key
from athanor.dynamics.rows import Rows, SavedRows, save_rows, take_up_rows

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.fields import Level


class HookMemory:
    """Rows of one hook on the batches that it sees.

    Parameters
    ----------
    levels
        Level of each variable that is not one row for each system.
    """

    def __init__(self, levels: Mapping[str, Level] | None = None) -> None:
        self.key, self._levels = new_key(self), dict(levels or {})
        self._batch: weakref.ref[Batch] | None = None
        self._saved: SavedRows | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_batch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        take_key(self, self.key)

    def follow(self, batch: Batch) -> None:
        """Note the whole batch that is run, from which `state_dict` reads."""
        self._batch = weakref.ref(batch)

    def of(self, batch: Batch, fresh: Callable[[], Rows]) -> Rows:
        """Return the rows of a batch, with `fresh` ones for systems that are new. Changes are made in place.

        Waits for the device.
        """
        known = batch.known_to(self.key)
        if known is None or self._saved is not None or not bool(known.all()):
            take_up_rows(batch, self.key, fresh(), self._levels, self._saved)
            self._saved = None
        return batch.state_rows(self.key)

    def known(self, batch: Batch) -> Rows:
        """Return the rows of a batch as they are; nothing if there are none."""
        return batch.state_rows(self.key)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of the rows of the batch that was run last, which must still be there."""
        batch = None if self._batch is None else self._batch()
        if batch is None or batch.known_to(self.key) is None:
            rows = self._saved
        else:
            rows = save_rows(batch, self.key, self._levels)
        return {"key": self.key, "rows": None if rows is None else rows._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state`; the next batch must hold the same system ids."""
        self.key = state["key"]
        take_key(self, self.key)
        self._saved = None if state["rows"] is None else SavedRows(**state["rows"])
