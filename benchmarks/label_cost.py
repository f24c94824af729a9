"""What labelling 1,000 to 1,000,000 rows costs, counted by the code of ``icm-fast label --plan``.

    python benchmarks/label_cost.py --measured RESULTS.json --write docs/label-your-data.md

The rows are the movie reviews that the package holds, repeated as often as needed; no model runs.
Measured columns come from what `benchmarks/label_reviews.py` wrote, one file for each number of
rows, and so does the rate, which is that of the most rows; `--rate` is for tables without files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from icm_fast.engine.progress import clock
from icm_fast.files import write_atomically
from icm_fast.labelling import LabelConfig, LabelTask
from icm_fast.labelling.plan import LabelPlan, counted_plan
from icm_fast.labelling.scan import measure_prompts
from icm_fast.labelling.tables import ListTable
from icm_fast.model.load import outline_model
from label_reviews import LABELS, read_reviews

ROWS = (1_000, 2_000, 10_000, 100_000, 1_000_000)
PROGRAM_BYTES = 400 << 20
"""Memory of Python with its packages, which plans do not count; measured."""
BEGIN, END = "<!-- begin: label_cost.py -->", "<!-- end: label_cost.py -->"


@dataclass(frozen=True, slots=True)
class Measured:
    """What labelling some rows took: medians over seeds."""

    rows: int
    tokens: float
    seconds: float
    peak_mib: float


def main() -> None:
    """Print the table, and put it into a page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--measured", type=Path, nargs="*", default=[])
    parser.add_argument("--rate", type=float, help="tokens per second, without --measured")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    measured = [read_measured(json.loads(path.read_text())) for path in arguments.measured]
    most = max(measured, key=lambda point: point.rows, default=None)
    rate = most.tokens / most.seconds if most is not None else arguments.rate
    if not rate:
        parser.error("name results with --measured, or a rate with --rate")
    text = "\n".join(cost_table(plans(arguments.model), measured, rate))
    print(text)
    if arguments.write is not None:
        page = arguments.write.read_text(encoding="utf-8")
        write_atomically(arguments.write, replaced(page, text).encode())


def read_measured(document: Mapping[str, object]) -> Measured:
    """The medians of a document of ``label_reviews.py``."""
    runs, rows = document["runs"], document["rows"]
    assert isinstance(runs, list)
    assert isinstance(rows, int)
    middle = {
        name: float(median(run[name] for run in runs))
        for name in ("n_tokens", "seconds", "peak_mib")
    }
    return Measured(rows, middle["n_tokens"], middle["seconds"], middle["peak_mib"])


def plans(model: str) -> list[LabelPlan]:
    """Plans for reviews, repeated up to each number of rows."""
    texts, _ = read_reviews(None)
    task, config = LabelTask(text="review", labels=LABELS), LabelConfig()
    outline = outline_model(model, dtype=config.dtype, device=config.device)
    asked = task.with_template(task.templates()[0])
    table = ListTable([{"review": text} for text in texts])
    lengths = measure_prompts(table, asked, outline.tokenizer, outline.max_context)
    # Drawn, since reviews of one film stand together; the longest stays the longest.
    drawn = np.random.default_rng(0).permutation(lengths.items)
    return [
        counted_plan(task, replace(lengths, items=np.resize(drawn, n)), outline, config)
        for n in ROWS
    ]


def cost_table(
    planned: Sequence[LabelPlan], measured: Sequence[Measured], rate: float
) -> list[str]:
    """Lines of Markdown.

    Args:
        planned: One plan for each line.
        measured: Points that were measured; a line has the one with about as many rows.
        rate: Tokens per second.
    """
    lines = [
        "| rows | prompts scored | tokens | time | memory | disk | measured |",
        "|---|---|---|---|---|---|---|",
    ]
    for plan in planned:
        near = [m for m in measured if 0.9 < m.rows / plan.n_rows < 1.1]
        found = [f"{clock(m.seconds)}, {m.peak_mib / 1024:.1f} GiB ({m.rows:,} rows)" for m in near]
        lines.append(
            f"| {plan.n_rows:,} | {plan.n_prompts:,} | {plan.n_tokens / 1e6:,.2f} M "
            f"| {clock(plan.n_tokens / rate)} "
            f"| {(plan.memory_bytes + PROGRAM_BYTES) / 2**30:.1f} GiB "
            f"| {plan.disk_bytes / 2**20:,.1f} MiB | {'; '.join(found) or '-'} |"
        )
    return lines


def replaced(page: str, table: str) -> str:
    """The page with another table between its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page lacks the marks {BEGIN} and {END}")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


if __name__ == "__main__":
    main()
