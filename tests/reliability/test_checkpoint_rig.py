"""Damaged checkpoints give what was written, or an error, soon and in little memory."""

from __future__ import annotations

from athanor.io.checkpoint import files

from . import checkpoint_rig


def test_damage_is_told_or_harmless(tmp_path):
    found = list(checkpoint_rig.cases(2000, tmp_path, "suite"))
    assert {outcome for outcome, _, _ in found} == {"right", "told"}
    assert sum(outcome == "told" for outcome, _, _ in found) > 80
    assert max(grown for _, _, grown in found) < 200_000


def test_a_loader_that_looks_at_no_digest_is_found(tmp_path, monkeypatch):
    class Right(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __ne__(self, other: object) -> bool:
            return False

    monkeypatch.setattr(files, "_digests", lambda place: dict.fromkeys((files.STATE, files.TENSORS), Right()))
    assert any("silently" in outcome for outcome, _, _ in checkpoint_rig.cases(100, tmp_path, "suite"))
