"""Settings of a labelling, validated once, immutable afterwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from icm_fast.config import (
    BATCH_TOKENS,
    DTYPES,
    ENGINES,
    KV_BUDGET_TOKENS,
    PRESETS,
    SERVERS,
    Between,
    ListOf,
    OneOf,
    SearchConfig,
    Switch,
    Text,
    check_names,
    coerced,
    read_limits,
)
from icm_fast.errors import InputError, shown

MOST_TEXT_LABELS = 20
"""Labels up to which texts are scored after each of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig:
    """Settings of one labelling.

    Attributes:
        cores: How many sets of rows are searched. Every other row is predicted after each of them,
            and the predictions vote.
        core_size: Prompts in one core, a comparison counting two. Fewer where the context of the
            model is shorter, and where the table has fewer rows.
        keep: Share of a core's rows, the most confident ones, that become demonstrations.
        confident: Share of the rows of each label, by confidence without demonstrations, from
            which cores are drawn; 1 draws from all rows.
        shares: Expected share of each label, in the order of the labels, where it is known. Absent,
            only the mean prediction of each context is taken off, and shares follow from the rows.
        abstain: Share of the rows, the least certain ones, that stay without a label.
        chunk_rows: Rows that are scored and stored at a time.
        seed: Seed of every draw.
        preset: Preset of the searches; see :class:`icm_fast.SearchConfig`.
        channel: Whether searches, and some rows of a table, are also asked how probable each text
            is after each label; with the preset ``default`` alone, with at most
            :data:`MOST_TEXT_LABELS` labels, as each label is another pass; of servers, vLLM and
            SGLang tell it.
        dtype: See :class:`icm_fast.SearchConfig`.
        device: See :class:`icm_fast.SearchConfig`.
        engine: See :class:`icm_fast.SearchConfig`.
        server: See :class:`icm_fast.SearchConfig`.
        tokenizer: See :class:`icm_fast.SearchConfig`.
        int8: See :class:`icm_fast.SearchConfig`.
        kv_budget_tokens: See :class:`icm_fast.SearchConfig`.
        batch_tokens: See :class:`icm_fast.SearchConfig`.
        context_limit: See :class:`icm_fast.SearchConfig`.
    """

    cores: Annotated[int, Between(1, 99)] = 3
    core_size: Annotated[int, Between(2, 100_000)] = 64
    keep: Annotated[float, Between(0.05, 1.0)] = 0.75
    confident: Annotated[float, Between(0.01, 1.0)] = 0.5
    shares: Annotated[tuple[float, ...], ListOf(Between(1e-9, 1.0))] = ()
    abstain: Annotated[float, Between(0.0, 1.0)] = 0.0
    chunk_rows: Annotated[int, Between(1, 1_000_000)] = 1024
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    preset: Annotated[str, OneOf(PRESETS)] = "default"
    channel: Annotated[bool, Switch()] = True
    dtype: Annotated[str, OneOf(DTYPES)] = "auto"
    device: Annotated[str, Text()] = "auto"
    engine: Annotated[str, OneOf(ENGINES)] = "auto"
    server: Annotated[str, OneOf(SERVERS)] = "auto"
    tokenizer: Annotated[str, Text(may_be_empty=True)] = ""
    int8: Annotated[bool, Switch()] = False
    kv_budget_tokens: Annotated[int, Between(1, 10**12)] = KV_BUDGET_TOKENS
    batch_tokens: Annotated[int, Between(1, 10**12)] = BATCH_TOKENS
    context_limit: Annotated[int, Between(0, 10**12)] = 0

    def __post_init__(self) -> None:
        read_limits(self)
        self.search_config()  # refuses what a search would refuse, before anything is read

    def check_labels(self, labels: tuple[str, ...]) -> None:
        """Raise InputError unless ``shares``, if given, fit the labels."""
        if not self.shares:
            return
        if len(self.shares) != len(labels):
            raise InputError(
                f"shares has {len(self.shares)} values, but there are {len(labels)} labels; give "
                "one share for each"
            )
        if abs(sum(self.shares) - 1.0) > 0.01:
            raise InputError(
                f"shares {shown(list(self.shares))} add up to {sum(self.shares):.3g}; "
                "they must add up to 1"
            )

    def for_labels(self, n_labels: int) -> LabelConfig:
        """These settings as they are followed with so many labels."""
        return self if n_labels <= MOST_TEXT_LABELS else dataclasses.replace(self, channel=False)

    def asks_for_texts(self, per_row: int) -> bool:
        """Whether some rows, each of so many prompts, are asked the other way round."""
        return per_row == 1 and self.search_config().uses_channel

    def search_config(self, **more: Any) -> SearchConfig:
        """Settings of the searches and of the scoring."""
        if not self.channel:
            more = {"channel": False, **more}
        return SearchConfig(
            preset=self.preset,
            seed=self.seed,
            dtype=self.dtype,
            device=self.device,
            engine=self.engine,
            server=self.server,
            tokenizer=self.tokenizer,
            int8=self.int8,
            kv_budget_tokens=self.kv_budget_tokens,
            batch_tokens=self.batch_tokens,
            context_limit=self.context_limit,
            **more,
        )

    def to_dict(self) -> dict[str, object]:
        """The resolved settings as plain JSON types."""
        return {**dataclasses.asdict(self), "shares": list(self.shares)}

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> LabelConfig:
        """Build from options; an unknown key is an error that names the nearest one."""
        check_names(content, (field.name for field in dataclasses.fields(cls)))
        return cls(**coerced(cls, content))
