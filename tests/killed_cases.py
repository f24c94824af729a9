"""Trainings of two processes that end themselves by SIGKILL; started in each of them.

Arguments: a folder, and where to end: ``KIND:EVENT:STEP:RANKS``, such as ``tuned:step:3:1``, or
nothing.
"""

import os
import signal
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

import distributed_cases
from icm_fast import distributed


class Killing(TrainerCallback):
    """Ends this process after a step, or between a checkpoint and its mark."""

    def __init__(self, event, step):
        self._at = (event, int(step))

    def _end(self, event, state):
        if (event, state.global_step) == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step_end(self, args, state, control, **named):
        self._end("step", state)

    def on_save(self, args, state, control, **named):
        self._end("saved", state)


def main(folder, where):
    torch.set_num_threads(1)
    kind, event, step, ranks = where.split(":") if where else ("", "", 0, "")
    kills = [Killing(event, step)] if str(distributed.rank()) in ranks else []
    distributed_cases.tune(folder / "tuned", callbacks=kills if kind == "tuned" else [])
    distributed_cases.judge(
        folder / "reward", format="chat", callbacks=kills if kind == "reward" else []
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
