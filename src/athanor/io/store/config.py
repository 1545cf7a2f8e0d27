"""How a store is written: its layout options, and when waiting frames are committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from athanor._config import Config
from athanor.errors import InputError


class TrajectoryConfig(Config):
    """How a new store is laid out.

    Parameters
    ----------
    shard_bytes
        Uncompressed size of a file of an array to aim at.
    buffer_bytes
        Size of the log at which its rows move into the arrays; also the bound on rows that wait for a full disk.
    compression_level
        Level of LZ4 as Blosc takes it, 0 to 9; it acts on the bits of numbers, sorted by their place.
    """

    model_config = ConfigDict(frozen=True)

    shard_bytes: int = Field(default=4 << 20, ge=1024)
    buffer_bytes: int = Field(default=16 << 20, ge=0)
    compression_level: int = Field(default=9, ge=0, le=9)


@dataclass(frozen=True, slots=True)
class Durability:
    """When waiting frames are committed; each condition that is met does.

    Parameters
    ----------
    frames
        After this many writes; None never.
    seconds
        At the first write after this many seconds; None never.
    """

    frames: int | None = None
    seconds: float | None = None
    is_synced: bool = True
    """Whether what was acknowledged is to survive a power cut."""

    @classmethod
    def parse(cls, text: str) -> Durability:
        """Read ``frame``, ``every:k``, ``interval:s``, ``close``, ``none``, joined by commas.

        ``close`` and ``none`` ask for no commit before `flush` or `close`, and stand alone.

        Raises
        ------
        InputError
            If a word is unknown, a number is missing or not positive, or words contradict each other.
        """
        allowed = "Use `frame`, `every:k`, `interval:s`, `close` or `none`, joined by commas."
        words = [word.strip() for word in text.split(",")] if isinstance(text, str) else []
        frames: int | None = None
        seconds: float | None = None
        for word in words:
            name, _, number = word.partition(":")
            try:
                if word == "frame":
                    frames = 1
                elif name == "every" and int(number) > 0:
                    frames = min(int(number), frames or int(number))
                elif name == "interval" and 0 < float(number) < float("inf"):
                    seconds = min(float(number), seconds or float(number))
                elif word not in ("close", "none") or len(words) > 1:
                    raise ValueError
            except ValueError:
                raise InputError(f"`durability={text!r}` has the word {word!r}. {allowed}") from None
        if not words:
            raise InputError(f"`durability={text!r}` is not text. {allowed}")
        return cls(frames, seconds, words != ["none"])


def parse_config(config: TrajectoryConfig | Mapping[str, Any] | None) -> TrajectoryConfig:
    """Turn a mapping into a `TrajectoryConfig`.

    Raises
    ------
    InputError
        If a key is unknown or a value out of range.
    """
    if isinstance(config, TrajectoryConfig):
        return config
    try:
        return TrajectoryConfig(**(config or {}))
    except (ValueError, TypeError) as error:
        raise InputError(f"`config` of a trajectory store is not usable: {error}") from error
