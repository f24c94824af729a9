"""Write docs/results.md from benchmarks/results/*.json: ``python benchmarks/make_results.py``.

``--check`` writes nothing and fails where the page is not what the files give. Every number of the
page is read or computed here; the sentences around them are the template's.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks/results"
PAGE = REPOSITORY / "docs/results.md"
TEMPLATE = REPOSITORY / "benchmarks/results_page.md"

METHODS = {
    "zero-shot": "none: zero-shot",
    "zero-shot-assistant": "none: zero-shot, a former dialogue of ours",
    "zero-shot-dialogue": "none: zero-shot, a dialogue of ours",
    "zero-shot-hhh": "none: zero-shot, HHH prompt",
    "zero-shot-chat": "none: zero-shot, chat template",
    "bootstrapped": "few-shot bootstrapping",
    "random-shots": "few-shot, random labels",
    "balanced-bootstrapping": "balanced bootstrapping",
    "icm": "**ICM**",
    "golden": "golden",
    "crowd": "one annotator",
    "perturbed": "golden with random errors",
    "icm-tuned": "**ICM**, fine-tuned",
    "golden-tuned": "golden, fine-tuned",
    "crowd-tuned": "one annotator, fine-tuned",
    "perturbed-tuned": "golden with random errors, fine-tuned",
}
ENGINES = {
    "ours": "icm_fast",
    "ours-int8": "icm_fast, `int8=true` (an approximation)",
    "transformers-naive": "transformers, whole prompts",
    "transformers-cache-natural": "transformers, DynamicCache",
    "transformers-cache-ours": "transformers, DynamicCache",
    "vllm-natural-32": "vLLM's CPU build",
    "vllm-ours-32": "vLLM's CPU build",
    "llama-cpp-natural": "llama.cpp",
    "llama-cpp-ours": "llama.cpp",
}
TASKS = {
    "movie-64": "movie-sentiment",
    "movie-paired": "movie-sentiment, paired",
    "larger-than": "larger-than",
    "truthfulqa": "truthfulqa",
    "alpaca": "alpaca-preference",
}
KINDS = ("calibrated", "plain")
"""Two ways to take a prediction, the one that says most first."""

Columns = Sequence[Mapping[str, Any]]
"""Columns of an experiment, as its file holds them."""


@cache
def read(name: str) -> Any:
    """The content of a results file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (names, *rows)]
    lines.insert(1, "|" + "---|" * len(names))
    return "\n".join(lines)


def share(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A share with its interval; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.2f}" + ("" if interval is None else " [{:.2f}, {:.2f}]".format(*interval))


def points(difference: Mapping[str, Any]) -> str:
    """A difference in points of accuracy with its interval."""
    low, high = (100 * bound for bound in difference["interval"])
    return f"{100 * difference['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"


def seconds(value: float) -> str:
    """Seconds with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def column(experiment: str, name: str) -> Mapping[str, Any]:
    """One column of an experiment."""
    columns: Mapping[str, Any] = {c["name"]: c for c in read(f"experiment-{experiment}")["columns"]}
    return columns[name]


def accuracy(experiment: str, name: str, method: str, kind: str = "calibrated") -> str:
    """Accuracy of a method in a column, without its interval."""
    return share(column(experiment, name)["methods"][method][kind]["accuracy"])


def by_seed(experiment: str, name: str, method: str, kind: str) -> str:
    """Accuracy of a method in each seed."""
    return _by_seed(column(experiment, name)["methods"][method][kind]["by_seed"])


def difference(experiment: str, name: str, pair: str, kind: str = "calibrated") -> str:
    """A difference such as ``icm-golden``, in points."""
    method, _, against = pair.rpartition("/")
    for found in column(experiment, name).get("differences", ()):
        if (found["method"], found["against"]) == (method, against):
            return points(found[kind])
    raise KeyError(f"{experiment}, {name}: no difference {pair}")


def gap(experiment: str, name: str, pair: str, kind: str) -> str:
    """The same without its interval, for a file of a version that stored none."""
    method, _, against = pair.rpartition("/")
    found, other = (
        column(experiment, name)["methods"][m][kind]["accuracy"] for m in (method, against)
    )
    return f"{100 * (found - other):+.1f}"


def experiment(name: str) -> str:
    """Accuracies, differences and searches of one experiment."""
    content = read(f"experiment-{name}")
    file = f"../benchmarks/results/experiment-{name}"
    facts = (
        f"Seeds {', '.join(map(str, content['seeds']))}; {content['machine']}; repeats "
        f"{content['source']}; recorded as `{content['command']}`; "
        f"[every number]({file}.md)."
    )
    if content["source"].startswith("ours"):
        facts = facts.replace("repeats ours", "an experiment of ours")
    parts = [facts, f"![{content['title']}]({file}.png)"]
    full, short = _by_width(content["columns"])
    parts += [_accuracies(full, kind) for kind in KINDS]
    parts += [_differences(full), _presets(short), _searches(content["columns"])]
    return "\n\n".join(part for part in parts if part)


def _by_width(columns: Columns) -> tuple[Columns, Columns]:
    """Columns of all methods, and those of found and golden labels alone beside them."""
    short = [c for c in columns if set(c["methods"]) <= {"icm", "golden"}]
    full = [c for c in columns if c not in short]
    return (full, short) if full else (short, [])


def _presets(columns: Columns) -> str:
    """Found against golden labels in columns called ``DATA, PRESET``, a row for each."""
    rows = []
    for each in columns:
        data, _, preset = each["name"].rpartition(", ")
        found, golden = (each["methods"][m] for m in ("icm", "golden"))
        shown = [
            share(of[kind]["accuracy"], of[kind]["interval"])
            for kind in KINDS
            for of in (found, golden)
        ]
        rows.append([data, f"`{preset}`", str(each["n"]), *shown])
    names = [f"{what}, {kind}" for kind in KINDS for what in ("**ICM**", "golden")]
    return table(["data", "preset", "n", *names], rows) if rows else ""


def _accuracies(columns: Columns, kind: str) -> str:
    used = [m for m in METHODS if any(kind in c["methods"].get(m, {}) for c in columns)]
    rows = []
    for method in used:
        cells = [c["methods"].get(method, {}).get(kind) for c in columns]
        shown = [
            "–" if cell is None else share(cell["accuracy"], cell["interval"]) for cell in cells
        ]
        rows.append([METHODS[method], *shown])
    rows.append(["most frequent label", *(share(c["majority"]) for c in columns)])
    return table([f"{kind} accuracy", *(c["name"] for c in columns)], rows)


def _differences(columns: Columns) -> str:
    pairs: dict[tuple[str, str], None] = {}
    for each in columns:
        pairs |= {(d["method"], d["against"]): None for d in each.get("differences", ())}
    if not pairs:
        return ""
    rows = []
    for pair in pairs:
        for kind in KINDS:
            cells = [
                next(
                    (
                        points(d[kind])
                        for d in c.get("differences", ())
                        if (d["method"], d["against"]) == pair
                    ),
                    "–",
                )
                for c in columns
            ]
            rows.append([f"{METHODS[pair[0]]} against {METHODS[pair[1]]}, {kind}", *cells])
    return table(["points of accuracy", *(c["name"] for c in columns)], rows)


def _searches(columns: Columns) -> str:
    names = ("search", "n", "agreement with gold, by seed", "U(found) - U(gold)", "evaluations")
    rows = []
    for each in columns:
        found = each["search"]["seeds"]
        gaps = (
            "–" if s["gold_utility"] is None else f"{s['utility'] - s['gold_utility']:+.1f}"
            for s in found
        )
        rows.append(
            [
                each["name"],
                str(each["n"]),
                " ".join(share(s["agreement"]) for s in found),
                " ".join(gaps),
                f"{statistics.mean(s['n_evaluations'] for s in found):.1f}",
                f"{statistics.mean(s['n_tokens'] for s in found) / each['n']:,.0f}",
                f"{statistics.mean(s['seconds'] for s in found):.0f}",
            ]
        )
    return table([*names, "tokens per label", "seconds"], rows)


def engines(name: str) -> str:
    """One exact U(D) by several engines."""
    content = read(name)
    case, machine = content["case"], content["machine"]
    rows = [
        [
            ENGINES[peer["name"]],
            peer["order"],
            seconds(peer["seconds"]["median"]),
            f"{peer['ratio_to_ours']:.2f}",
            f"{peer['fraction_of_limit']:.2f}",
            f"{peer['answers']['median']:.3f}, {peer['answers']['maximum']:.2f}",
            f"{peer['n_measured']} of {peer['n_prompts']}",
        ]
        for peer in sorted(content["peers"], key=lambda peer: peer["seconds"]["median"])
    ]
    facts = (
        f"{case['model']}, {case['task']}, n = {case['n']}, {case['dtype']}, {content['threads']} "
        f"threads of {machine['processor']} ({machine['instruction_sets']}), median of "
        f"{content['repeats']}; [the run](../benchmarks/results/{name}.md)."
    )
    names = ("engine", "order of contexts", "seconds", "x ours", "limit", "error: median, maximum")
    return f"{facts}\n\n{table([*names, 'prompts measured'], rows)}"


def peer(name: str, variant: str, what: str) -> str:
    """``seconds``, ``ratio`` or ``limit`` of one engine in one run."""
    found = next(p for p in read(name)["peers"] if p["name"] == variant)
    if what == "seconds":
        return seconds(found["seconds"]["median"])
    key = {"ratio": "ratio_to_ours", "limit": "fraction_of_limit"}[what]
    return f"{found[key]:.{1 if what == 'ratio' else 2}f}"


def curve() -> str:
    """Seconds over n, with fitted exponents."""
    content = read("gemma3-270m-truthfulqa-curve")
    rows = [
        [
            str(point["n"]),
            seconds(point["median_seconds"]),
            f"{point['tokens']:,}",
            f"{point['tokens_of_whole_prompts']:,}",
            f"{point['kv_pool_bytes'] / 2**20:.0f} MiB",
            f"{point['peak_rss_bytes'] / 2**30:.1f} GiB",
        ]
        for point in content["points"]
    ]
    names = ("n", "seconds", "tokens", "tokens of whole prompts", "keys and values", "peak memory")
    powers = content["exponents"]
    fitted = f"Seconds grow as n^{powers['seconds']:.2f}, tokens as n^{powers['tokens']:.2f}."
    return f"{table(names, rows)}\n\n{fitted}"


def quality() -> str:
    """Ten seeds on five tasks, the preset ``default`` against ``paper``."""
    content = read("search_quality")
    rows = []
    for task, title in TASKS.items():
        for preset in ("default", "paper"):
            runs = [run for run in content["rows"][task] if run["preset"] == preset]
            found = [run["agreement"] for run in runs]
            higher = sum(run["calibrated"] >= run["calibrated_gold"] for run in runs)
            rows.append(
                [
                    f"{title}, {content['tasks'][task]['model']}, n = {runs[0]['n']}",
                    _FORMER_DEFAULT.get(preset, preset),
                    f"{statistics.mean(run['labelled'] for run in runs) / runs[0]['n']:.2f}",
                    f"{share(statistics.mean(found))} ({min(found):.2f} to {max(found):.2f})",
                    *(
                        _mean(runs, f"{source}_calibrated")
                        for source in ("golden_many_shot", "zero_shot")
                    ),
                    f"{higher} of {len(runs)}",
                    f"{statistics.mean(run['evaluations'] for run in runs):.1f}",
                ]
            )
    names = (
        "task",
        "preset",
        "labelled",
        "agreement with gold",
        "golden demonstrations",
        "zero-shot",
    )
    return table([*names, "U(found) at or above U(gold)", "evaluations"], rows)


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> str:
    return share(statistics.mean(run[key] for run in runs))


def evaluations_range() -> str:
    """Mean evaluations of the preset ``default`` over tasks, least to greatest."""
    means = [
        statistics.mean(run["evaluations"] for run in runs if run["preset"] == "default")
        for runs in read("search_quality")["rows"].values()
    ]
    return f"{min(means):.0f} to {max(means):.0f}"


def savings() -> str:
    """Tokens of one search, each saving on and off."""
    content = read("search_savings")
    every = content["every_step"]
    named = {row["variant"]: row["tokens"] for row in reversed(content["rows"])}
    full = next(row for row in content["rows"] if row["variant"] == "all savings")
    rows = [
        ("every step scored, natural order, prefix cache", every["natural, cached"]),
        ("every step scored, our tree", every["tree"]),
        ("steps that change nothing skipped, repeats looked up", named["without both"]),
        ("unlabelled examples scored only when drawn", named["without early rejection"]),
        ("candidates rejected as soon as the bound allows", full["tokens"]),
    ]
    return table(("what is scored", "tokens"), [(name, f"{tokens:,}") for name, tokens in rows])


def bounded() -> str:
    """What `context_demonstrations` changes."""
    found = read("search_savings")["approximations"]["context_demonstrations"]
    rows = [
        [
            str(row["demonstrations"]),
            f"{row['median_difference']:.2f}",
            f"{row['largest_difference']:.1f}",
            share(row["favourite_changes"]),
            f"{row['tokens']:,.0f}",
        ]
        for row in found
    ]
    names = (
        "demonstrations",
        "median change",
        "largest change",
        "favourites that change",
        "tokens",
    )
    return table(names, rows)


def whole_search() -> str:
    """A real search against the algorithm as printed, which scores every step."""
    content = read("search_cost_append")
    ours, theirs = content["ours"], content["natural_cached"]
    vllm = theirs["vllm"]["seconds"]
    n_vllm = len(theirs["vllm"]["measured_tokens_and_seconds"])
    rows = [
        ["icm_fast", f"{ours['tokens']:,}", seconds(ours["seconds"]), "1"],
        [
            "transformers, DynamicCache, natural order, every step",
            f"{theirs['tokens']:,}",
            f"{theirs['extrapolated_seconds']:,.0f} (extrapolated from "
            f"{theirs['measured_steps']} steps)",
            f"{content['second_ratio']:.0f}",
        ],
        [
            "vLLM, natural order, every step",
            f"{theirs['tokens']:,}",
            f"{vllm:,.0f} (interpolated from {n_vllm} steps)",
            f"{vllm / ours['seconds']:.0f}",
        ],
    ]
    facts = (
        f"Ours: {ours['iterations']} iterations, {ours['evaluations']} evaluations, ended as "
        f"{ours['reason']}. With every step scored, the same decisions take "
        f"{content['token_ratio']:.0f} times the tokens, count (a) below; "
        f"{ours['asks']} of the {theirs['steps']} steps"
        " need U(D), the others are null draws."
    )
    return f"{facts}\n\n{table(('procedure', 'tokens', 'seconds', 'x ours'), rows)}"


def short_search() -> str:
    """The same comparison, stopped early."""
    content = read("search-cost-truthfulqa-64")
    ours = content["ours"]
    return (
        f"Stopped after {ours['iterations']} iterations with {ours['n_labelled']} of 64 labels, "
        f"and with contexts of the tree, the gain over every step scored was "
        f"{content['token_ratio']:.1f} in tokens and {content['second_ratio']:.1f} in seconds: it "
        "comes late in a search, when contexts are long and most steps change nothing."
    )


def simulated() -> str:
    """Tokens of whole searches on synthetic scores, against both counts of the others."""
    rows = []
    for row in read("search-cost-simulated")["rows"]:
        contexts = [("tree", row["ours"])]
        if row["preset"] not in _FORMER_DEFAULT:  # whose evaluations seldom extend earlier ones
            contexts.append(("append", row["ours_appending"]))
        for order, ours in contexts:
            counts = (row["natural_cached"], row["authors_cached"])
            rows.append(
                [
                    str(row["n"]),
                    _FORMER_DEFAULT.get(row["preset"], row["preset"]),
                    order,
                    f"{ours:,.0f}",
                    *(f"{count:,.0f}" for count in counts),
                    *(_times(count / ours) for count in counts),
                ]
            )
    names = ("n", "preset", "contexts", "our tokens", "(a) every step", "(b) authors' code")
    return table([*names, "(a) x ours", "(b) x ours"], rows)


def planned() -> str:
    """Tokens of simulated searches as the planner counts them, against those of the others."""
    rows = []
    for row in (*read("context_cost")["rows"], *read("context_cost_256")["rows"]):
        pools = [(name, row[name]) for name in row if re.fullmatch(r"append \d+", name)]
        for name, ours in (("tree", row["tree"]), *pools):
            order, _, budget = name.partition(" ")
            # Where a violation stays, a null draw of the printed algorithm runs the fix; one of the
            # authors' code does nothing, so its count is that of its own preset.
            is_counted = row["group_size"] == 1 or row["preset"] == "authors-code"
            rows.append(
                [
                    str(row["n"]),
                    row["preset"],
                    "none" if row["group_size"] == 1 else f"groups of {row['group_size']}",
                    f"{order}, {int(budget):,}" if budget else order,
                    f"{ours:,.0f}",
                    _times(row["every step"] / ours),
                    _times(row["authors' code"] / ours) if is_counted else "–",
                ]
            )
    names = ("n", "preset", "rules", "contexts, pool", "our tokens")
    return table([*names, "(a) x ours", "(b) x ours"], rows)


def both_counts() -> str:
    """A real search, counted against every step scored and against the authors' code."""
    content = read("search_cost_append_64")
    ours, every, authors = content["ours"], content["natural_cached"], content["authors_code"]
    rows = [
        ["icm_fast, `context_order=append`", f"{ours['evaluations']}", f"{ours['tokens']:,}", "1"],
        [
            "(a) the algorithm as printed: every step scored",
            f"{every['steps']}",
            f"{every['tokens']:,}",
            _times(content["token_ratio"]),
        ],
        [
            f"(b) the authors' code: {authors['proposals']} prompts that propose",
            f"{authors['evaluations']}",
            f"{authors['tokens']:,}",
            _times(content["authors_token_ratio"]),
        ],
    ]
    return table(("procedure", "evaluations of U(D)", "tokens", "x ours"), rows)


def _times(ratio: float) -> str:
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def many_shot() -> str:
    """Held-out predictions after shared demonstrations."""
    content = read("many_shot")
    rows = [
        ["icm_fast, one shared prefix", seconds(content["seconds"]), "1"],
        [
            "transformers, the demonstrations' keys and values kept",
            seconds(content["cache_seconds"]),
            f"{content['x_cache']:.1f}",
        ],
        [
            f"transformers, whole prompts (extrapolated from {content['whole_prompts_timed']})",
            seconds(content["whole_prompts_seconds"]),
            f"{content['x_whole_prompts']:.0f}",
        ],
    ]
    facts = (
        f"{content['n_test']} held-out claims after {content['n']} labelled ones, "
        f"{content['dtype']}: {content['tokens']:,} tokens instead of "
        f"{content['prompt_tokens']:,}; [the run](../benchmarks/results/many_shot.json)."
    )
    return f"{facts}\n\n{table(('engine', 'seconds', 'x ours'), rows)}"


_FORMER_DEFAULT = {"default": "annealing", "annealing": "annealing"}
"""Files older than the present default call the preset ``annealing`` by the name it had."""

BASELINES = {
    "bootstrapping": "balanced bootstrapping with constraints, at equal tokens",
    "zero_shot": "zero-shot, calibrated",
    "random_shots": "few-shot after random labels",
    "golden": "golden demonstrations, each example after all others",
}


def label_quality() -> str:
    """Searches against cheap methods on the same examples, cell by cell."""
    content = read("quality")
    rows = []
    for cell in content["cells"]:
        values = [cell[key] for key in ("zero_shot", "random_shots", "bootstrapping", "search")]
        tokens = f"{cell['tokens'] / cell['n']:,.0f}"
        rows.append(
            [
                cell["cell"] if cell["works"] else f"{cell['cell']} *",
                str(len(cell["seeds"])),
                f"{cell['golden']:.3f}",
                *(f"{value:.3f}" for value in values),
                tokens,
            ]
        )
    names = ("cell", "seeds", "golden", "zero-shot", "random shots", "bootstrapping", "`default`")
    seeds = sorted({seed for cell in content["cells"] for seed in cell["seeds"]})
    facts = f"`{content['command']}`, seeds {', '.join(map(str, seeds))}:"
    return f"{facts}\n\n{table((*names, 'tokens a label'), rows)}"


def label_gains() -> str:
    """Differences over the cells in which golden demonstrations work."""
    content = read("quality")
    rows = [
        [
            BASELINES[other],
            f"{gain['mean']:+.1f} [{gain['interval'][0]:+.1f}, {gain['interval'][1]:+.1f}]",
            f"{gain['worst_cell']:+.1f}",
        ]
        for other, gain in content["gains"].items()
    ]
    return table(("`default` against", "points of agreement", "worst cell"), rows)


def label_fact(what: str) -> str:
    """One number of the bench."""
    value = read("quality")
    for key in what.split("."):
        value = value[key]
    return f"{value:,}"


def verdict_fact(what: str, name: str = "verdict") -> str:
    """One number of the fit of the verdict, or of its test on later searches."""
    value = read(name)
    for key in what.split("."):
        value = value[key]
    return f"{value:,}"


def wrong_starts() -> str:
    """Searches from wrong labels, each with its verdict."""
    content = read("wrong_starts")
    rows = [
        [
            run["cell"],
            str(run["seed"]),
            f"{run['agreement']:.3f}",
            f"{run['bootstrap']:.3f}",
            f"{run['opinion']:.2f}",
            f"{run['tokens']:,}",
            f"{run['chance']:.2f}",
            run["verdict"],
        ]
        for run in content["runs"]
    ]
    names = ("cell", "seed", "found", "bootstrap", "both agree", "tokens", "chance")
    facts = (
        f"`{content['command']}`: of {content['searches']} searches {content['stay_wrong']} did "
        f"not end usable, {content['stay_wrong_trusted']} of them trusted; of the others "
        f"{content['usable_not_trusted']} not trusted."
    )
    return f"{facts}\n\n{table((*names, 'verdict'), rows)}"


_SHARES = {"zero-shot": "zero-shot", "equal": "equal shares", "shown": "`default`"}


def simulated_shares() -> str:
    """Simulated rows of unequal labels: means over seeds."""
    content = read("shares_simulated")
    rows = [
        [
            row["name"],
            f"{row['signal']:g}",
            str(row["n"]),
            *(f"{row[kind]['accuracy']:.3f}" for kind in _SHARES),
            f"{row['shown']['share_error']:.2f}",
        ]
        for row in content["rows"]
    ]
    names = ("shares", "signal", "n", *_SHARES.values(), "share off by")
    return f"`{content['command']}`:\n\n{table(names, rows)}"


def drawn_shares() -> str:
    """Texts drawn at unequal shares: accuracy, and balanced accuracy in brackets, over seeds."""
    content = read("shares_draws")
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in content["rows"]:
        groups.setdefault((row["name"], row["model"]), []).append(row)
    rows = []
    for (name, model), runs in groups.items():
        means = [
            [statistics.mean(run[kind][key] for run in runs) for key in ("accuracy", "balanced")]
            for kind in _SHARES
        ]
        cells = [f"{accuracy:.3f} ({balanced:.3f})" for accuracy, balanced in means]
        off = max(run["shown"]["share_error"] for run in runs)
        rows.append([name, model, str(len(runs)), *cells, f"{off:.2f}"])
    names = ("examples", "model", "seeds", *_SHARES.values(), "share off by at most")
    n = content["rows"][0]["n"]
    return f"`{content['command']}`, {n} examples each:\n\n{table(names, rows)}"


def labelled_reviews() -> str:
    """Labellings of all movie reviews, seed by seed."""
    content = read("label_reviews")
    rows = [
        [
            str(run["seed"]),
            f"{run['without_neutral']['agreement']:.3f}",
            f"{run['without_neutral']['confident_half']:.3f}",
            f"{run['all_with_gold']['agreement']:.3f}",
            f"{run['mean_confidence']:.3f}",
            f"{run['n_tokens']:,}",
            f"{run['peak_mib']:,} MiB",
            seconds(run["seconds"]),
        ]
        for run in content["runs"]
    ]
    names = (
        "seed",
        "agreement",
        "confident half",
        "with neutral",
        "confidence",
        "tokens",
        "memory",
        "seconds",
    )
    return f"`{content['command']}`, {content['rows']:,} rows:\n\n{table(names, rows)}"


LABELLINGS = {
    "label": "**`label`**",
    "zero_shot_calibrated": "zero-shot, calibrated",
    "zero_shot_plain": "zero-shot, plain",
}


def labelled_sections() -> str:
    """Labellings of Debian's sections against zero-shot predictions of the same model."""
    content = read("label_sections")
    rows = [
        [
            str(run["seed"]),
            name,
            f"{run[kind]['agreement']:.3f}",
            f"{run[kind]['macro_f1']:.3f}",
        ]
        for run in content["runs"]
        for kind, name in LABELLINGS.items()
    ]
    facts = f"`{content['command']}`, {len(content['runs'][0]['labels'])} labels:"
    return f"{facts}\n\n{table(('seed', 'labels', 'agreement', 'macro-F1'), rows)}"


ARMS = {
    "icm": "found, 64 reviews",
    "gold": "golden, the same reviews",
    "human": "golden, all reviews of the pool",
    "start": "none: the start policy",
}
"""Of the assistant: what labels its reward models had."""


def assistant() -> str:
    """Reward models and policies of found and of golden labels, over seeds."""
    content = read("assistant-smollm2")
    models, won = content["reward_models"], content["win_rates"]
    rows = [
        [
            title,
            _by_seed(models[key]) if key in models else "",
            _of(content["positive"][key]),
            _of(won[f"{key} against start"]) if key != "start" else "",
        ]
        for key, title in ARMS.items()
    ]
    names = (
        "labels of the reward model",
        "right on held-out pairs, by seed",
        "positive continuations, by the judge",
        "win rate against the start policy",
    )
    against = [
        [
            ARMS[other],
            _of(won[f"icm against {other}"]),
            _by_seed(won[f"icm against {other}"]["seeds"]),
            _signed(content["differences"][f"icm minus {other}"]),
        ]
        for other in ("gold", "human")
    ]
    heads = (
        "found labels against",
        "win rate",
        "by seed",
        "difference of win rates against the start policy",
    )
    return f"{table(names, rows)}\n\n{table(heads, against)}"


def _of(estimate: Mapping[str, Any]) -> str:
    return share(estimate["value"], (estimate["low"], estimate["high"]))


def _signed(estimate: Mapping[str, Any]) -> str:
    return "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**estimate)


def _by_seed(values: Sequence[float]) -> str:
    return " ".join(map(share, values))


def assistant_fact(what: str) -> str:
    """One number of the assistant's run for each seed, or where all numbers are."""
    content = read("assistant-smollm2")
    seeds = [read(f"assistant-smollm2-seed{seed}") for seed in content["seeds"]]
    if what == "files":
        return ", ".join(
            f"[seed {seed}](../benchmarks/results/assistant-smollm2-seed{seed}.md)"
            for seed in content["seeds"]
        )
    if what.startswith("against-"):
        return _of(content["win_rates"][what.replace("against-", "icm against ")])
    if what == "agreement":
        return _by_seed(content["agreement"])
    if what == "judge":
        return _by_seed([one["positive"]["judge_accuracy"]["value"] for one in seeds])
    measure, arm = what.split("-")
    name, end = ("icm", 0) if arm == "start" else (arm, -1)
    values = [one["policies"][name][end][measure] for one in seeds]
    if measure == "perplexity":
        return " ".join(f"{value:.0f}" for value in values)
    return _by_seed(values)


def never_above_gold() -> str:
    """In how many searches of `main`'s other tasks U(found) exceeded U(gold)."""
    columns = read("experiment-main-small")["columns"]
    found = [
        s
        for c in columns
        if c["name"].endswith(", default") and not c["name"].startswith("reviews")
        for s in c["search"]["seeds"]
    ]
    above = sum(s["utility"] > s["gold_utility"] for s in found)
    return f"{above} of {len(found)}"


_NAMED: tuple[Callable[..., str], ...] = (
    *(experiment, accuracy, by_seed, difference, gap, never_above_gold, quality, evaluations_range),
    *(engines, peer, curve, many_shot, whole_search, short_search, both_counts, simulated),
    planned,
    *(savings, bounded, labelled_reviews, labelled_sections),
    *(label_quality, label_gains, label_fact, verdict_fact, wrong_starts),
    *(simulated_shares, drawn_shares),
    *(assistant, assistant_fact),
)
PARTS = {part.__name__: part for part in _NAMED}
"""What the template may ask for, by name."""


def page() -> str:
    """The page: the template with each ``{{part; argument; ...}}`` replaced."""
    pieces = TEMPLATE.read_text(encoding="utf-8").split("{{")
    text = pieces[0]
    for piece in pieces[1:]:
        call, _, rest = piece.partition("}}")
        name, *arguments = (word.strip() for word in call.split(";"))
        text += PARTS[name](*arguments) + rest
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/results.md is stale")
    content = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(content, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == content:
        return 0
    print("docs/results.md is stale; run python benchmarks/make_results.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
