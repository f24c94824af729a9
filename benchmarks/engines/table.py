"""The results of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.engines.verify import LIMITS

_COLUMNS = ("peer", "order", "seconds", "spread", "x ours", "tokens", "limit", "error", "note")

_MAX_CPUS = 1.1
"""CPUs per thread that a peer may use without a note; a pinned one can't use more than 1."""


def benchmark_table(document: dict[str, Any]) -> str:
    """A heading, the table and what its columns mean, from a benchmark's document."""
    rows = [_row(peer, document) for peer in document["peers"]]
    return "\n\n".join(
        [f"# {document['case']['name']}", _setting(document), markdown(_COLUMNS, rows), _legend()]
    )


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _setting(document: dict[str, Any]) -> str:
    case, machine, plan = document["case"], document["machine"], document["plan"]
    peaks = ", ".join(
        f"{dtype} {max(rates.values()) / 1e9:,.0f}"
        for dtype, rates in document["matmul_flops_per_second"].items()
    )
    load = machine["load_average"][0]
    return "\n".join(
        [
            f"Seconds for one exact U(D), cold: {case['model']}, {case['task']}, n = {case['n']}, "
            f"{case['dtype']}; threads: {document['threads']}, repeats: {document['repeats']}.",
            "",
            f"- Machine: {machine['processor']}, {machine['instruction_sets']}; load {load:.1f} "
            "before the start",
            f"- Matrix products (GFLOP/s): {peaks}",
            f"- Plan: {plan['tokens']:,} tokens, {plan['flops']['total'] / 1e9:,.0f} GFLOP; whole "
            f"prompts: {plan['tokens_of_whole_prompts']:,} tokens",
            f"- Command: `{document['command']}`",
        ]
    )


def _row(peer: dict[str, Any], document: dict[str, Any]) -> list[str]:
    answers = peer["answers"]
    differences = "" if answers is None else f"{answers['median']:.1e}, {answers['maximum']:.1e}"
    if peer["status"] == "failed":
        first = (peer["failure"].strip().splitlines() or [""])[-1].replace("|", "/")
        return [peer["name"], peer["order"], "FAILED", "", "", "", "", "", first]
    if peer["status"] == "wrong":
        note = "beyond median {:g}, max {:g}".format(*answers["limits"])
        return [peer["name"], peer["order"], "WRONG", "", "", "", "", differences, note]
    seconds, ratio, fraction = peer["seconds"], peer["ratio_to_ours"], peer["fraction_of_limit"]
    return [
        peer["name"],
        peer["order"],
        f"{seconds['median']:.3g}",
        f"{seconds['min']:.3g} to {seconds['max']:.3g}",
        "" if ratio is None else f"{ratio:.2f}",
        "" if peer["tokens_forwarded"] is None else f"{peer['tokens_forwarded']:,}",
        f"{fraction:.2f}",
        differences,
        _note(peer, document["threads"]),
    ]


def _note(peer: dict[str, Any], threads: int) -> str:
    notes = []
    if peer["seconds"]["extrapolated"]:
        notes.append(f"extrapolated from {peer['n_measured']} of {peer['n_prompts']} prompts")
    used = peer["processors_used"]
    if used > _MAX_CPUS * threads:
        notes.append(f"used {used:.1f} CPUs")
    answers = peer["answers"]
    if answers["signal"] <= answers["limits"][0]:
        notes.append("weak check: the model hardly tells the contexts apart")
    return "; ".join(notes)


def _legend() -> str:
    limits = "; ".join(
        f"{dtype}: median {median:g}, maximum {maximum:g}"
        for dtype, (median, maximum) in LIMITS.items()
    )
    return "\n".join(
        [
            "- seconds: median of the repeats, each with a cold cache, without loading and "
            "compilation. Spread: minimum and maximum.",
            "- x ours: seconds over ours, within this run. tokens: forwarded in the measured part, "
            "including padding.",
            "- limit: operations of our plan (linear and attention, without the head) over seconds "
            "times the rate of matrix products.",
            "- error: |d log p|, median and maximum against float32 scores of the same prompts "
            "(order ours: all; natural: whole prompts at a sample). A peer beyond the limits gets "
            f"no speed ({limits}).",
        ]
    )
