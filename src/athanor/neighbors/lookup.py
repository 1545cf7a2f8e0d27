"""Which of the stored lists a model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from athanor.data.pair_request import TOLERANCE, PairRequest
from athanor.neighbors.plan import is_far_longer

if TYPE_CHECKING:
    from athanor.data.batch import Batch
    from athanor.data.pair_list import PairList
    from athanor.neighbors.config import NeighborConfig


def find_pair_list(batch: Batch, cutoff: float, half: bool) -> PairList | None:
    """Return the stored list that fits `cutoff`, Å, best: the shortest that is enough; None if none is.

    Lists of the kind that `half` says are preferred, and lists that stay complete while atoms move within the skin.
    A list of unknown radius counts as enough.

    Notes
    -----
    If the best is far longer than needed, the need is noted with the list, and from the next step on the hook that
    keeps that list keeps a shorter one beside it. A list without skin is read as it is, pairs beyond the cutoff
    included: to search a second list at every step would cost more than to read the first.
    """
    needed = cutoff - TOLERANCE
    enough = [pairs for pairs in batch.pair_lists if not pairs.radius < needed]
    if not enough:
        return None
    best = enough[0]
    if len(enough) > 1:
        best = min(enough, key=lambda pairs: (pairs.cutoff < needed, pairs.half != half, pairs.radius))
    usage = best.usage
    if usage.unrepeated:
        usage.unrepeated -= {request for request in usage.unrepeated if abs(request.cutoff - cutoff) <= TOLERANCE}
    if best.cutoff > cutoff and best.requests and best.skin > 0.0 and is_far_longer(best.radius, cutoff + best.skin):
        usage.shorter_requests.add(PairRequest(cutoff, best.skin, half))
    return best


def show_pairs(batch: Batch, config: NeighborConfig | None) -> None:
    """Let ``neighbor_list``, ``neighbor_matrix`` and the like of `batch` show the list of a model; in place.

    Parameters
    ----------
    batch
        Unchanged if it has no list that is enough for the model, or if the model needs none.
    config
        Of the model that is about to run.
    """
    lists = batch.pair_lists
    found = None if config is None or not lists else find_pair_list(batch, config.cutoff, config.half_list)
    if found is not None and found is not lists[0]:
        batch.pair_lists = (found, *(pairs for pairs in lists if pairs is not found))
