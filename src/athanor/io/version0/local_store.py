"""A folder of files as zarr sees it; imported when the first store is opened, because zarr is."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from zarr.storage import LocalStore

from athanor.errors import StorageError


class RegularFiles(LocalStore):
    """Files of a folder; a pipe or device in the place of one is refused, where zarr would wait for its end."""

    async def get(self, key: str, *arguments: Any, **more: Any) -> Any:
        """Return the bytes under a key, or None."""
        path = Path(self.root) / key
        try:
            kind = path.stat().st_mode
        except OSError:
            kind = stat.S_IFREG  # absent, or out of reach: zarr says which
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise StorageError(f"`{path}` is a pipe or a device. The store is damaged; do not use it.")
        return await super().get(key, *arguments, **more)
