"""Every exception that athanor raises on purpose.

Each class also inherits the standard exception a caller would catch, so code written for the standard library's
classes keeps working. Messages follow one form: what, where, got and expected, what to do next.
"""

from __future__ import annotations


class AthanorError(Exception):
    """Base of all exceptions raised by athanor."""


def in_words(error: BaseException) -> str:
    """Return what an exception says, in one line: its text if it is ours, else its type and the start of its text."""
    if isinstance(error, AthanorError):
        return str(error)
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_LONGEST = 300


class AthanorWarning(UserWarning):
    """Something will run, but is probably not meant.

    Parameters
    ----------
    text
        What is odd, and what to do.
    topic
        What it is about, for those who want to silence it.
    """

    def __init__(self, text: str, topic: str = "") -> None:
        super().__init__(text)
        self.text, self.topic = text, topic

    def __str__(self) -> str:
        if not self.topic:
            return self.text
        return f"{self.text} Silence it with `silence=['{self.topic}']`."


class InputError(AthanorError, ValueError):
    """A value handed in by the caller is not usable."""


class ShapeError(InputError):
    """A tensor has the wrong shape."""


class DtypeError(InputError, TypeError):
    """A tensor has the wrong dtype."""


class ArgumentError(InputError, TypeError):
    """An argument is unknown, missing, or not of the type that is taken."""


class OutOfRangeError(InputError, IndexError):
    """An index is not that of a system or row."""


class ContractError(AthanorError, TypeError):
    """An object lacks what its role asks for: a hook, a model, an engine or what they are given."""


class NotAvailableError(AthanorError, NotImplementedError):
    """A feature is not part of this version, or not of this object."""


class MissingFieldError(AthanorError, KeyError):
    """A field that is needed is absent."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownFieldError(AthanorError, AttributeError):
    """A name is neither a field of the table nor a registered custom field."""


class MissingFileError(AthanorError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class CapacityError(AthanorError, RuntimeError):
    """A container of fixed capacity has no room."""


class ModelOutputError(AthanorError, RuntimeError):
    """A model did not return what it was asked for."""


class SimulationError(AthanorError, RuntimeError):
    """A run can not go on."""


class NonFiniteError(SimulationError):
    """A quantity became NaN or infinite."""


class StorageError(AthanorError, RuntimeError):
    """A trajectory or results folder can not be read or written."""


class OptionalDependencyError(AthanorError, ImportError):
    """An optional package is needed and not installed."""
