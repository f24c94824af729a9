"""What became of searches that started from wrong labels, and what their verdict says.

python -m benchmarks.quality.archive --cells wrong --seeds 51 -o build/wrong
python -m benchmarks.quality.wrong build/wrong -o benchmarks/results/wrong_starts.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.table import Run, read_archive
from benchmarks.quality.verdict import USABLE, above_chance
from icm_fast.files import write_atomically


def main() -> None:
    """Print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    runs = [run for run in read_archive(arguments.archive) if run["start"] == "wrong"]
    document = {
        "command": "python -m benchmarks.quality.wrong " + " ".join(sys.argv[1:]),
        "versions": runs[0]["versions"],
        **summary(runs),
        "runs": [content(run) for run in runs],
    }
    print(json.dumps(document, indent=1))
    if arguments.output is not None:
        write_atomically(arguments.output, (json.dumps(document, indent=1) + "\n").encode())


def summary(runs: Sequence[Run]) -> dict[str, int]:
    """How many searches there are, how many did not end usable, and what is said of both."""
    usable = [above_chance(run) >= USABLE for run in runs]
    trusted = [run["searches"][0]["verdict"] == "trust" for run in runs]
    both = list(zip(usable, trusted, strict=True))
    return {
        "searches": len(runs),
        "stay_wrong": usable.count(False),
        "stay_wrong_trusted": both.count((False, True)),
        "usable_not_trusted": both.count((True, False)),
    }


def content(run: Run) -> dict[str, Any]:
    """One search."""
    search = run["searches"][0]
    return {
        "cell": f"{run['cell'].removesuffix(', wrong start')}, {run['model']}",
        "seed": run["seed"],
        "agreement": round(search["agreement"], 4),
        "bootstrap": round(search["bootstrap"], 4),
        "opinion": round(search["opinion"], 4),
        "tokens": search["tokens"],
        "concerns": search["concerns"],
        "chance": search["chance"],
        "verdict": search["verdict"],
    }


if __name__ == "__main__":
    main()
