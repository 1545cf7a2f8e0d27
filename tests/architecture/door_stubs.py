"""Write a type stub beside each door: what the table of doors promises, for type checkers and editors.

``python tests/architecture/door_stubs.py`` writes them anew; a test compares them with the table.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from athanor import _doors

HEADER = "# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.\n\n"


def source_of(door: str) -> Path:
    """Return the ``__init__.py`` of a door."""
    spec = importlib.util.find_spec(door)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def stub(door: str) -> str:
    """Return the text of the stub of a door: what its file imports and assigns, and its rows of the table."""
    imports = {(door if home == f"{door}.{name}" else home, name) for name, home in _doors.TABLE[door].items()}
    source, rest = source_of(door).read_text(encoding="utf-8"), []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom) and node.module != "athanor._doors":
            imports |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            if target == "__version__":
                rest.append("__version__: str\n")
            elif target == "__all__":
                rest.append(f"{ast.get_source_segment(source, node)}\n")
    lines = [f"from {module} import {name} as {name}\n" for module, name in sorted(imports, key=_import_order)]
    return HEADER + "".join(lines) + "".join("\n" + text for text in rest)


def _import_order(row: tuple[str, str]) -> tuple[str, int, str]:
    """Order as ruff does: by module; there constants, classes, functions and modules."""
    module, name = row
    return module, 0 if name.isupper() else 1 if name[0].isupper() else 2, name


if __name__ == "__main__":
    for each in _doors.TABLE:
        source_of(each).with_suffix(".pyi").write_text(stub(each), encoding="utf-8")
