"""Fine-tunings whose model FSDP divides among processes of a CPU; started in each of them.

accelerate knows FSDP on GPUs alone; here its state is told that processes of a CPU will do.
The only argument is the folder for what is found.
"""

import json
import sys
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
    tuned = distributed_cases.tune(folder / "tuned")
    full = distributed_cases.tune(method="full")
    distributed_cases.tune_and_stop(folder / "resumed", 5)
    started = sorted(path.name for path in (folder / "resumed" / "checkpoints").iterdir())
    resumed = distributed_cases.tune(folder / "resumed")
    found = {
        "tuned": tuned.losses,
        "full": full.losses,
        "resumed": resumed.losses,
        "started": started,
        "reward": distributed_cases.wrong(distributed_cases.judge),
    }
    rank = distributed.rank()
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    for name, one in (("tuned", tuned), ("full", full), ("resumed", resumed)):
        weights = distributed_cases.weights(one.model.model)
        save_file(weights, folder / f"{name}-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
