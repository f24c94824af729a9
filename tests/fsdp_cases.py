"""Trainings whose model FSDP divides among processes of a CPU; started in each of them.

accelerate knows FSDP on GPUs alone; here its state is told that processes of a CPU will do.
The only argument is the folder for what is found.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import state as accelerate_state
from safetensors.torch import save_file

import distributed_cases
from icm_fast import distributed


def allow_fsdp_on_cpus():
    original = accelerate_state.AcceleratorState.__init__

    def init(self, *arguments, **named):
        plugin = named.get("fsdp_plugin")
        original(self, *arguments, **named)
        if plugin is not None:
            self.distributed_type = accelerate_state.DistributedType.FSDP
            self.fsdp_plugin = plugin

    accelerate_state.AcceleratorState.__init__ = init


def main(folder):
    torch.set_num_threads(1)
    allow_fsdp_on_cpus()
    trainings = {
        "tuned": distributed_cases.tune,
        "reward": distributed_cases.judge,
        "dpo": partial(distributed_cases.prefer, eval_fraction=0.0),
    }
    made, left = {}, {}
    for name, train in trainings.items():
        made[name] = train(folder / name)
        made[f"{name}-full"] = train(method="full")
        left[name] = distributed_cases.stop_within(train, folder / f"{name}-resumed", 4)
        made[f"{name}-resumed"] = train(folder / f"{name}-resumed")
    found = {"losses": {name: one.losses for name, one in made.items()}, "left": left}
    rank = distributed.rank()
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    for name, one in made.items():
        network = getattr(one.model, "network", None)
        weights = distributed_cases.weights(one.model.model if network is None else network)
        save_file(weights, folder / f"{name}-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
