"""What was found of a model: one row for each check and system, and the table of them that a person reads."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What a row of a report says."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_CLAIMED = "not claimed"
    """Measured, and not judged: the card says nothing of it, or says that it does not hold."""
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Row:
    """One check of one system.

    Parameters
    ----------
    check
        Name of the check.
    system
        Name of the system; what was looked at, for a check of the model as a whole.
    verdict
        What follows from the figures and from what the card claims.
    error, bound
        What was measured and what is allowed, relative to the size of the quantity or to 1, whichever is larger;
        ``None`` where there is nothing to measure.
    note
        What was measured, what is wrong, or why the check does not apply.
    claims
        Properties of the card that the check looks at; none if every model has to pass it.
    holds
        Whether what the check asks for holds, whatever is claimed; ``None`` if the check does not apply.
    """

    check: str
    system: str
    verdict: Verdict
    error: float | None = None
    bound: float | None = None
    note: str = ""
    claims: tuple[str, ...] = ()
    holds: bool | None = None

    @property
    def severity(self) -> tuple[int, float]:
        """Sorts rows: the worst one of a check stands for it."""
        order = (Verdict.NOT_APPLICABLE, Verdict.PASSED, Verdict.NOT_CLAIMED, Verdict.FAILED).index(self.verdict)
        if self.error is None or self.bound is None:
            return order, 0.0 if self.holds else math.inf
        return order, float(f"{excess(self.error, self.bound):.3g}")  # of equal ones, not the last bits decide


def excess(error: float, bound: float) -> float:
    """Return how many times its bound an error is; a bound of zero allows nothing."""
    return error / bound if bound else math.inf if error else 0.0


@dataclass(frozen=True, slots=True, repr=False)
class ModelReport:
    """What `check_model` found. Printing it gives the table; in a test, call `raise_if_failed`.

    Parameters
    ----------
    model
        What the model is called.
    conditions
        Name -> how it was checked: precision, device, elements, what the card claims.
    rows
        Every check of every system, in order.
    warnings
        What the model warned of on the way.
    """

    model: str
    conditions: Mapping[str, str]
    rows: Sequence[Row]
    warnings: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> list[Row]:
        """The rows that failed."""
        return [row for row in self.rows if row.verdict is Verdict.FAILED]

    @property
    def checks(self) -> dict[str, list[Row]]:
        """Name of each check -> its rows."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.check, []).append(row)
        return found

    def verdict(self, check: str) -> Verdict:
        """Return what the check called `check` found: the worst of its rows."""
        return max(self.checks[check], key=lambda row: row.severity).verdict

    def raise_if_failed(self) -> ModelReport:
        """Return the report if it is `ok`.

        Raises
        ------
        AssertionError
            With every row that failed, and the figures.
        """
        if self.failed:
            names = {row.check for row in self.failed}
            lines = "\n".join(f"  {text}" for text in self.failures())
            raise AssertionError(f"{self.model} fails {_count(names, 'check')}:\n{lines}")
        return self

    def failures(self) -> list[str]:
        """Return what failed, a line for each check and reason, with the largest error and the systems it is of."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.failed:
            groups.setdefault((row.check, row.note if row.error is None else ""), []).append(row)
        return [_told(rows) for rows in groups.values()]

    def remarks(self) -> list[str]:
        """Which systems were left out, and what the card could say and does not, in view of what was measured."""
        refused = [row for row in self.rows if row.check == "outputs" and row.verdict is Verdict.NOT_APPLICABLE]
        found = [f"Left out, as the model refuses it: {row.system}. {row.note}" for row in refused]
        for name in dict.fromkeys(name for row in self.rows for name in row.claims if name in _CLAIMS):
            rows = [row for row in self.rows if name in row.claims and row.holds is not None]
            others = [row for row in rows if row.claims == (name,)] or rows
            if rows and all(row.verdict is Verdict.NOT_CLAIMED for row in rows) and all(row.holds for row in others):
                found.append(f"The card does not claim `{name}`, which holds in all that was measured.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an error that is not finite is ``None``."""
        rows = [asdict(row) | {"verdict": str(row.verdict)} for row in self.rows]
        for row in rows:
            if row["error"] is not None and not math.isfinite(row["error"]):
                row["error"] = None
        return {
            "model": self.model,
            "ok": self.ok,
            "conditions": dict(self.conditions),
            "rows": rows,
            "remarks": self.remarks(),
            "warnings": list(self.warnings),
        }

    def table(self, *, all_rows: bool = False) -> str:
        """Return the report as text: one line for each check with its worst system, or every row."""
        chosen = self.rows if all_rows else [_summary(rows) for rows in self.checks.values()]
        lines = [f"{name:<{_NAME}}{value}" for name, value in {"model": self.model, **self.conditions}.items()]
        lines += ["", f"{'check':<{_NAME}}{'verdict':<16}{'error':>9}{'bound':>9}  where and what", "-" * 100]
        lines += [_line(row) for row in chosen]
        lines += ["-" * 100, *(f"failed: {text}" for text in self.failures())]
        lines += [f"warned: {text}" for text in self.warnings]
        return "\n".join([*lines, *self.remarks(), self._counts()])

    def _counts(self) -> str:
        verdicts = [self.verdict(check) for check in self.checks]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts)
        return f"{_count(verdicts, 'check')}: {counts}."

    def __repr__(self) -> str:
        return self.table()


_NAME = 22
_CLAIMS = ("conservative", "equivariant", "smooth")


def _count(things: Collection[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _told(rows: Sequence[Row]) -> str:
    """Return one line of rows that failed the same check for the same reason."""
    worst = max(rows, key=lambda row: row.severity)
    where = ", ".join(row.system for row in rows if row.system)
    figures = "" if worst.error is None else f": {worst.error:.3g}, allowed is {worst.bound:.3g}"
    more = f" (worst: {worst.system})" if len(rows) > 1 and worst.error is not None else ""
    return f"{worst.check}{' of ' if where else ''}{where}: {worst.note}{figures}{more}"


def _summary(rows: Sequence[Row]) -> Row:
    """Return the worst row of a check, which stands for all of them; of those that passed, no more is said."""
    worst = max(rows, key=lambda row: row.severity)
    if worst.verdict is Verdict.PASSED and worst.error is not None:
        worst = replace(worst, note="")
    measured = [row for row in rows if row.verdict is not Verdict.NOT_APPLICABLE]
    if len(measured) <= 1:
        return worst
    many = f"{len(measured)} systems"
    return replace(worst, system=many if worst.verdict is Verdict.PASSED else f"{worst.system} (worst of {many})")


def _line(row: Row) -> str:
    error = "" if row.error is None else f"{row.error:.1e}"
    bound = "" if row.bound is None else f"{row.bound:.0e}" if row.bound < 0.01 else f"{row.bound:g}"
    what = ": ".join(part for part in (row.system, row.note) if part)
    return f"{row.check:<{_NAME}}{row.verdict:<16}{error:>9}{bound:>9}  {what}".rstrip()
