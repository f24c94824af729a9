"""Which examples end the contexts of a labelling, where contexts grow at their end.

With ``context_order=append`` a labelling that adds examples to one that was scored before keeps its
contexts and appends the new examples to each of them, so that only these and the queries are
forwarded. What the contexts of a labelling are is then a function of the labellings before it: the
same search always finds the same ones, also when it is resumed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from icm_fast.types import UNLABELLED, IntArray

Appended = tuple[int, ...]


class ContextOrders:
    """Decides, for one labelling after the other, between appending and a new tree.

    Args:
        demonstration_tokens: ``[n]``, tokens of each example's demonstration.
        budget: Tokens whose keys and values may be held.
    """

    def __init__(self, demonstration_tokens: npt.NDArray[np.int64], budget: int) -> None:
        self._tokens = np.asarray(demonstration_tokens, np.int64)
        self._budget = budget
        self._known: dict[bytes, Appended] = {}
        self._labels = np.zeros((0, len(self._tokens)), np.int32)
        self._orders: list[Appended] = []

    def order_of(self, labels: IntArray) -> Appended:
        """Examples that end all contexts of ``labels``, in order; decided at the first call."""
        key = np.ascontiguousarray(labels, np.int32).tobytes()
        if key not in self._known:
            self._known[key] = order = self._decide(labels)
            self._labels = np.concatenate([self._labels, labels[None]])
            self._orders.append(order)
        return self._known[key]

    def _decide(self, labels: IntArray) -> Appended:
        differs = self._labels != labels
        extends = (~differs | (self._labels == UNLABELLED)).all(axis=1)
        sizes = (self._labels != UNLABELLED).sum(axis=1)
        if (extends & (sizes > 0)).any():
            # The latest of the largest.
            parent = int(np.flatnonzero(extends & (sizes == sizes[extends].max()))[-1])
            order = self._orders[parent] + tuple(np.flatnonzero(differs[parent]).tolist())
            return order if self._fits(labels, order) else ()
        same_set = ((self._labels == UNLABELLED) == (labels == UNLABELLED)).all(axis=1)
        if same_set.any():
            parent = int(np.flatnonzero(same_set)[-1])
            return self._after_change(labels, self._orders[parent], differs[parent])
        return ()

    def _after_change(
        self, labels: IntArray, order: Appended, changed: npt.NDArray[np.bool_]
    ) -> Appended:
        """Keep the order of the same examples under other labels if little has to be redone.

        Everything behind the first changed example is encoded again in every context; a new tree
        encodes each demonstration about log2 n times.
        """
        if not set(np.flatnonzero(changed).tolist()) <= set(order):
            return ()
        first = min(order.index(int(i)) for i in np.flatnonzero(changed))
        labelled = np.flatnonzero(labels != UNLABELLED)
        again = len(labelled) * int(self._tokens[list(order[first:])].sum())
        anew = int(self._tokens[labelled].sum()) * max(1.0, math.log2(len(labelled)))
        return order if again <= anew else ()

    def _fits(self, labels: IntArray, order: Appended) -> bool:
        """Whether all contexts can be held: the tree below, and the order behind every leaf."""
        labelled = np.flatnonzero(labels != UNLABELLED)
        base = np.setdiff1d(labelled, order)
        tree = int(self._tokens[base].sum()) * math.ceil(math.log2(len(base) + 1))
        tails = (len(labelled) + 1) * int(self._tokens[list(order)].sum())
        queries = int(self._tokens.sum())
        return tree + tails + queries <= self._budget
