"""Choosing a few of many candidates that are far from each other, or large in something, with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SAME = 1e-5
"""Distance, relative to the size of the features, up to which two candidates are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """What is known of each candidate; arrays with one row for each.

    Parameters
    ----------
    keys
        int64 [C, k]; by which whoever asks knows it again.
    values
        float64 [C]; the larger the better. NaN where there is none.
    features
        float64 [C, D]; None if distances do not count.
    groups
        int64 [C]; what it comes from, such as one system of one run.
    times
        float64 [C]; when, inside of its group.
    """

    keys: np.ndarray
    values: np.ndarray
    features: np.ndarray | None
    groups: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: np.ndarray) -> Candidates:
        """Return some of them, in the order of `rows`."""
        features = None if self.features is None else self.features[rows]
        return Candidates(self.keys[rows], self.values[rows], features, self.groups[rows], self.times[rows])

    def and_also(self, others: Candidates) -> Candidates:
        """Return these and `others`, which have features if these have."""
        features = None
        if self.features is not None and others.features is not None:
            features = np.concatenate([self.features, others.features])
        return Candidates(
            keys=np.concatenate([self.keys, others.keys]),
            values=np.concatenate([self.values, others.values]),
            features=features,
            groups=np.concatenate([self.groups, others.groups]),
            times=np.concatenate([self.times, others.times]),
        )


def pick(
    candidates: Candidates, n: int, *, spacing: float = 0.0, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose candidates one after the other: the farthest from those chosen before, or the one of the largest value.

    Farthest-point selection leaves no candidate farther from the chosen ones than twice the smallest distance that any
    choice of as many could reach [1]_. It starts with the largest value, else with what is farthest from `known`, else
    with what is farthest from the mean. Without features the largest values are chosen. Of what is equal the first
    counts, so a choice is the same each time.

    Parameters
    ----------
    candidates
        All there are.
    n
        Most that are chosen. Fewer are, where all that is left is the same as something chosen or known, or too close
        to it in time.
    spacing
        Least time between two of one group.
    known
        [K, D]; features of what need not be chosen.

    Returns
    -------
    tuple of np.ndarray
        Rows of the chosen ones in the order of choice, and the distance of each from those before and from the known
        ones; NaN of the first where there are none, and without features.

    References
    ----------
    .. [1] T. F. Gonzalez, Theor. Comput. Sci. 38, 293 (1985). doi:10.1016/0304-3975(85)90224-5

    Examples
    --------
    >>> import numpy as np
    >>> line = np.array([[0.0], [0.1], [5.0], [9.0], [9.0]])
    >>> nothing = np.zeros(5)
    >>> rows, distances = pick(Candidates(np.arange(5)[:, None], nothing * np.nan, line, np.arange(5), nothing), 4)
    >>> rows.tolist(), distances.round(1).tolist()
    ([0, 3, 2, 1], [nan, 9.0, 4.0, 0.1])
    """
    left = np.ones(len(candidates), dtype=bool)
    features, values = candidates.features, candidates.values
    nearest = np.full(len(candidates), np.inf)
    tolerance = 0.0
    if features is not None:
        tolerance = _SAME * float(np.abs(features).max(initial=0.0))
        for row in () if known is None else known:
            np.minimum(nearest, _distances(features, row), out=nearest)
    rows: list[int] = []
    distances: list[float] = []
    while len(rows) < n and left.any():
        merit = _merit(features, values, nearest, is_first=not rows)
        place = int(np.argmax(np.where(left, merit, -np.inf)))
        if features is not None and nearest[place] <= tolerance:
            if not rows and left.sum() > 1:  # of the largest value, and known: others may not be
                left[place] = False
                continue
            break
        rows.append(place)
        distances.append(float(nearest[place]) if np.isfinite(nearest[place]) else np.nan)
        left[place] = False
        left &= ~((candidates.groups == candidates.groups[place])
                  & (np.abs(candidates.times - candidates.times[place]) < spacing))  # fmt: skip
        if features is not None:
            np.minimum(nearest, _distances(features, features[place]), out=nearest)
    return np.array(rows, dtype=np.int64), np.array(distances)


def _merit(features: np.ndarray | None, values: np.ndarray, nearest: np.ndarray, *, is_first: bool) -> np.ndarray:
    """Return what the next one is the largest of, [C]."""
    if features is None or (is_first and np.isfinite(values).any()):
        return np.nan_to_num(values, nan=-np.inf, posinf=np.finfo(float).max)
    if is_first and not np.isfinite(nearest).all():
        return _distances(features, features.mean(axis=0))
    return nearest


def _distances(features: np.ndarray, point: np.ndarray) -> np.ndarray:
    difference = features - point
    return np.sqrt(np.einsum("ij,ij->i", difference, difference))


class Pool:
    """Candidates out of a stream, of which `pick` is to choose in the end; holds a bounded number of them.

    When it is full and there is more, it keeps what `pick` chooses of it, a half, so that it does not matter in which
    blocks they come. Of what was chosen of parts farthest points are chosen
    as well as of the whole, up to a factor that does not depend on its size [1]_.

    Parameters
    ----------
    most
        Candidates that it holds.
    spacing, known
        As in `pick`.

    References
    ----------
    .. [1] P. Indyk et al., Proc. 33rd ACM PODS, 100 (2014). doi:10.1145/2594538.2594560
    """

    def __init__(self, most: int, *, spacing: float = 0.0, known: np.ndarray | None = None) -> None:
        self._most, self._spacing, self._known = most, spacing, known
        self._held: Candidates | None = None
        self.seen = 0
        """Candidates that were ever added."""

    def add(self, candidates: Candidates) -> None:
        """Take up more of them, in the order of the stream."""
        self.seen += len(candidates)
        start = 0
        while start < len(candidates):
            if self._held is not None and len(self._held) == self._most:
                rows, _ = self._pick(self._held, self._most // 2)
                self._held = self._held.take(np.sort(rows))  # in the order of the stream, as before
            room = self._most - (0 if self._held is None else len(self._held))
            part = candidates.take(np.arange(start, min(start + room, len(candidates))))
            self._held = part if self._held is None else self._held.and_also(part)
            start += len(part)

    def choose(self, n: int) -> tuple[Candidates | None, np.ndarray]:
        """Return at most `n` of them in the order of choice, and their distances; None if there are none."""
        if self._held is None:
            return None, np.empty(0)
        rows, distances = self._pick(self._held, n)
        return self._held.take(rows), distances

    def _pick(self, held: Candidates, n: int) -> tuple[np.ndarray, np.ndarray]:
        return pick(held, n, spacing=self._spacing, known=self._known)
