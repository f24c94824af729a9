"""Decisions recorded by an earlier build: a change of behaviour must be a decision, not a slip.

Rewrite the record with ``python tests/engine/test_engine_golden.py``.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from engine_cases import ENGINES, Case, run_steps
from test_engine_equivalence import SYNTHETIC_TASKS

from icm_fast.config import SearchConfig

GOLDEN = Path(__file__).parent.parent / "golden" / "engine_decisions.json"
N_DECISIONS = 200


def _line(event: dict[str, Any]) -> str:
    """Render a decision without its floats, whose last bit may depend on the math library."""
    changes = " ".join(f"{i}:{before}>{after}" for i, before, after in event["changes"])
    outcome = "yes" if event["accepted"] else "no"
    return f"{event['iteration']} {event['move']} {outcome} {changes}".rstrip()


def _decisions(task: str, seed: int, engine: type) -> list[str]:
    settings, n_labels, graph, scorer = SYNTHETIC_TASKS[task]
    config = SearchConfig(**settings, seed=seed)
    case = Case(24, n_labels, *graph, scorer(24, n_labels, seed), config)
    lines = []
    for event in run_steps(case, case.start(engine)):
        lines.append(_line(event))
        if len(lines) == N_DECISIONS:
            break
    return lines


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("task", SYNTHETIC_TASKS)
def test_recorded_decisions(task, seed, engine):
    record = json.loads(GOLDEN.read_text())[f"{task}/{seed}"]
    assert _decisions(task, seed, engine) == record


if __name__ == "__main__":
    content = {
        f"{task}/{seed}": _decisions(task, seed, ENGINES[1])
        for task in SYNTHETIC_TASKS
        for seed in range(3)
    }
    GOLDEN.write_text(json.dumps(content, indent=0) + "\n")
