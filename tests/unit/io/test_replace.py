"""A file is replaced whole, or stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from athanor.io._replace import PARTIAL, replacing


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with replacing(file) as partial:
        partial.write_text("first", encoding="utf-8")
        assert not file.exists()
        assert partial.name.startswith(".a.txt.")
        assert partial.name.endswith(PARTIAL)

    def cut_short() -> None:
        with replacing(file) as partial:
            partial.write_text("half", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert file.read_text(encoding="utf-8") == "first"
    assert list(tmp_path.iterdir()) == [file]
