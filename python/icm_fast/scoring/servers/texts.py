"""How probable each example's text is after each label, from a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icm_fast.plan.text_ids import common_length
from icm_fast.plan.texts import TextPlan, fitting_texts
from icm_fast.scoring.protocol import Scored
from icm_fast.scoring.servers.client import TextAsk
from icm_fast.scoring.texts import calibrated_texts
from icm_fast.types import Dataset, IntArray

if TYPE_CHECKING:
    from icm_fast.config import SearchConfig
    from icm_fast.scoring.servers.lazy import ServedModel


class ServerTextScorer:
    """Scores texts under the contexts of :class:`~icm_fast.scoring.texts.TextScorer`.

    Each text goes out whole, as token ids. The probability of a token is that among all tokens, not
    among those of the texts alone: that is what servers tell, and it tells labels apart as well
    (dev/LOG.md).

    Args:
        served: The model.
        dataset: The examples.
        config: Seed and limits; batches are the server's affair.
    """

    def __init__(self, served: ServedModel, dataset: Dataset, config: SearchConfig) -> None:
        texts = served.client.dialect.texts
        if texts is None:
            raise TypeError(f"{served.name} cannot be asked for texts; see reads_texts")
        self._served = served
        self._dataset = dataset
        self._config = config
        self._is_cached = texts.is_cached

    def plan(self, labels: IntArray) -> TextPlan:
        """What :meth:`score_texts` sends; contexts are short enough for the model.

        Raises:
            InputError: A text after one demonstration is too long already.
        """
        served = self._served
        # The plan leaves the last token of a text out.
        return fitting_texts(
            self._dataset, served.tokenizer, labels, self._config, served.max_context, unplanned=1
        )

    def predict_text_tokens(self, labels: IntArray) -> int:
        """Tokens that :meth:`score_texts` makes the server compute."""
        return _tokens(self._asks(self.plan(labels)))

    def score_texts(self, labels: IntArray) -> Scored:
        """Score the text of every example after each label; see ``TextScorer.score_texts``.

        Raises:
            InputError: The texts do not fit, or the server fails.
        """
        plan = self.plan(labels)
        asks = self._asks(plan)
        totals = np.zeros((len(self._dataset), len(self._dataset.label_space)))
        found = self._served.client.ask_texts(asks)
        for leaf, logprobs in zip(plan.leaves, found, strict=True):
            totals[leaf.row, leaf.label] = sum(logprobs)
        return Scored(calibrated_texts(totals, plan), _tokens(asks))

    def _asks(self, plan: TextPlan) -> list[TextAsk]:
        """A prompt for each leaf."""
        asks: list[TextAsk] = []
        for leaf in plan.leaves:
            before = plan.ids_before(leaf)
            ids = before + leaf.scored
            # Nothing is before the first token of all, so it has no probability.
            start = max(1, len(before))
            shared = 0
            if self._is_cached and asks:
                shared = min(common_length(asks[-1].ids, ids), start - 1)
            asks.append(TextAsk(ids, start, shared))
        return asks


def _tokens(asks: list[TextAsk]) -> int:
    """Tokens of the prompts, those that are cached counted once."""
    return sum(len(ask.ids) - ask.shared for ask in asks)
