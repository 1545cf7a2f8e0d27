"""YAML files with the line of every key, so that a message can say where a mistake stands.

Safe loader only: tags that build objects are refused. A key that is there twice is refused too; plain YAML would drop
the first without a word. Numbers are those of YAML 1.2: in YAML 1.1, the frames ``1:30`` are the number 90.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from athanor.errors import InputError

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)\Z")
_REAL = re.compile(
    r"([-+]?([0-9][0-9_]*\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
)


@functools.cache
def safe_loader() -> Any:
    """Return the loader class of athanor, for `yaml.load`: safe, ``1e3`` is a number, ``1:30`` and ``010`` are text."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {
            first: [entry for entry in entries if entry[0] not in (_INT, _FLOAT)]
            for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(_INT, _WHOLE, list("-+0123456789"))
    Loader.add_implicit_resolver(_FLOAT, _REAL, list("-+.0123456789"))
    return Loader


def read_yaml(file: Path) -> tuple[Any, Lines]:
    """Read one YAML document.

    Parameters
    ----------
    file
        Path, UTF-8 text.

    Returns
    -------
    content
        What the document holds.
    lines
        Line, counted from 1, of every key and list item, by its path from the top.

    Raises
    ------
    InputError
        If the file is missing, not text or not YAML, or has a key twice; the text has file, line and column.
    """
    import yaml

    if not file.is_file():
        raise InputError(f"`{file}` does not exist or is not a file. Pass the path of a YAML job.")
    try:
        loader = safe_loader()(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"`{file}` is not text (UTF-8): {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise InputError(f"`{file}` can not be read: {error.strerror}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"`{file}` is not text: {str(error).splitlines()[0]}.") from error
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines = _lines_of(file, node)
        return loader.construct_document(node), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise InputError(f"`{file}`{where}: not valid YAML: {error.problem or error}.") from error
    except InputError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-01 fails in the standard library
        raise InputError(f"`{file}`: not valid YAML: {error}.") from error
    except RecursionError as error:
        raise InputError(f"`{file}` is nested too deeply for a job.") from error
    finally:
        loader.dispose()


def _lines_of(file: Path, document: Any) -> Lines:
    """Return the line of every key and list item; each node once, so that aliases can not make it endless."""
    lines: Lines = {}
    seen: set[int] = set()

    def visit(node: Any, path: KeyPath) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if node.id == "sequence":
            for index, item in enumerate(node.value):
                lines[(*path, index)] = item.start_mark.line + 1
                visit(item, (*path, index))
        elif node.id == "mapping":
            first: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if key.id == "scalar" and name in first:
                    raise InputError(
                        f"`{file}`, line {line}: `{name}` is there twice, first in line {first[name]}. "
                        f"Remove one of them."
                    )
                first[name] = lines[(*path, name)] = line
                visit(value, (*path, name))

    visit(document, ())
    return lines
