"""Files of tensors: in what others wrote damage is found, no code runs, and what came in has a digest.

PyTorch's files are zip archives with a checksum for every member, which `torch.load` does not look at: of a file with
a wrong bit it returns other numbers without a word. Here the checksums are compared first.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from athanor.errors import ContractError, InputError, StorageError
from athanor.models.known_files import KNOWN_PICKLES

_OLDER_FORMAT = b"\x80"
"""First byte of every pickle of protocol 2 and later; files of PyTorch before 1.6 are a row of these."""

_IS_FOLDER = 0x10
"""Bit of the attributes of a member of an archive."""


def read_tensor_file(path: Path, *, trust: bool = False, digest: str = "", name: str = "") -> tuple[Any, str]:
    """Return what a file of tensors holds, on the CPU, and ``sha256:`` with the digest of its bytes.

    Parameters
    ----------
    path
        A file that `torch.save` wrote.
    trust
        Whether to run a file that is a whole pickle, which can execute anything. Those of `KNOWN_PICKLES` run without.
    digest
        Hexadecimal SHA-256 that the file must have; any, if empty.
    name
        What the file was asked for as, if not by its path.

    Raises
    ------
    InputError
        If there is no such file, it has another digest, is damaged, is no file of tensors, or is a pickle of code and
        not to be trusted.
    """
    content, found = read_whole(path, digest=digest, name=name)
    safe = not (trust or found in KNOWN_PICKLES)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=safe), f"sha256:{found}"
    except MemoryError:
        raise
    except pickle.UnpicklingError as error:
        raise (needs_trust(path) if safe else _damaged(path, str(error))) from error
    except (AttributeError, ImportError) as error:  # a class that the pickle names is not there
        if safe:
            raise _damaged(path, str(error)) from error
        raise InputError(
            f"`{path}` was written by another version of a package than is installed, or by one that is not: {error}. "
            f"Install the version that wrote it; often that is the newest."
        ) from error
    except Exception as error:  # whatever torch, or code that is trusted, makes of bytes that are no checkpoint
        raise _damaged(path, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}") from error


def read_whole(path: Path, *, digest: str = "", name: str = "", packed: bool = False) -> tuple[bytes, str]:
    """Return the bytes of a file of PyTorch, and their digest; of an archive none is other than it was written.

    Parameters
    ----------
    path, digest, name
        As in `read_tensor_file`.
    packed
        Whether parts of it may be compressed, as they are in archives of TorchScript.

    Raises
    ------
    InputError
        If there is no such file, it has another digest, or is damaged.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise InputError(f"`{path}` {what}. Pass the path of a checkpoint that `torch.save` wrote.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"`{path}` can not be read: {error.strerror}.") from error
    found = hashlib.sha256(content).hexdigest()
    if digest and found != digest:
        raise InputError(
            f"The checkpoint `{name or path}` at {path} has SHA-256 {found[:16]}..., expected {digest[:16]}.... "
            f"Reinstall the package, or pass the path to use this file all the same."
        )
    _check_whole(path, content, packed)
    return content, found


def needs_trust(path: Path | str) -> InputError:
    """Return the error for a file that runs code when it is loaded, and that nobody has said to trust."""
    return InputError(
        f"`{path}` is not a file of tensors only: loading it runs code from it, which can do whatever you can do. If "
        f"you know who wrote it, pass `trust=True`: `--trust-model` on the command line, `trust: true` beside the name "
        f"of the model in a job."
    )


def write_tensor_file(path: Path | str, content: Any) -> None:
    """Write tensors, numbers and text for `read_tensor_file`.

    Parameters
    ----------
    path
        File to write.
    content
        Dictionaries and lists of tensors, numbers and text.

    Raises
    ------
    ContractError
        If reading `content` back would need code of its own.
    StorageError
        If the file can not be written.
    """
    stream = io.BytesIO()
    torch.save(content, stream)
    stream.seek(0)
    try:
        torch.load(stream, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ContractError(
            f"`{path}` was not written: what it was to hold is more than tensors, numbers and text, so that reading it "
            f"would run code."
        ) from error
    write_bytes(path, stream.getvalue())


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file, or raise `StorageError`."""
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise StorageError(f"`{path}` can not be written: {error.strerror}. Choose another place.") from error


def _check_whole(path: Path, content: bytes, packed: bool) -> None:
    """Refuse what is no file of `torch.save`, and an archive of which a byte is not the one that was written."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        if content.startswith(b"PK"):
            raise _damaged(path, "the end of the archive is missing")
        if not content.startswith(_OLDER_FORMAT):
            what = "is empty" if not content else "is no checkpoint: it does not begin as files of `torch.save` do"
            raise InputError(f"`{path}` {what}. Pass the path of a checkpoint that `torch.save` wrote.")
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            folders = [each.filename for each in members if each.is_dir() or each.external_attr & _IS_FOLDER]
            if folders:  # of which PyTorch reads nothing, so that a tensor keeps whatever stood in its memory
                raise _damaged(path, f"`{folders[0]}` in it is marked as a folder")
            smaller = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
            if smaller and not packed:
                raise _damaged(path, f"`{smaller[0]}` is compressed, which PyTorch never does")
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, str(error)) from error
    if wrong is not None:
        raise _damaged(path, f"`{wrong}` in it has another checksum than when it was written")


def _damaged(path: Path, why: str) -> InputError:
    return InputError(f"`{path}` is damaged or no checkpoint: {why}. Get the file again.")
