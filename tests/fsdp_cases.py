"""Trainings whose model FSDP divides among processes of a CPU; started in each of them.

accelerate knows FSDP on GPUs alone; here its state is told that processes of a CPU will do.
The only argument is the folder for what is found. Without FSDP only the policies are trained.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import state as accelerate_state
from safetensors.torch import save_file

import distributed_cases
from chat_cases import chatting
from icm_fast import distributed
from icm_fast.training.rl import PolicyConfig, train_policy
from policy_cases import policy, random_judge

POLICIES = {
    "grpo": {"kl_target": 0.01},
    "rloo": {"algorithm": "rloo", "kl_weight": 0.0},
    "chatted": {"format": "chat", "num_iterations": 2, "steps": 4, "save_steps": 1},
}
"""The last one takes two updates from the same continuations, in several passes."""


def allow_fsdp_on_cpus():
    original = accelerate_state.AcceleratorState.__init__

    def init(self, *arguments, **named):
        plugin = named.get("fsdp_plugin")
        original(self, *arguments, **named)
        if plugin is not None:
            self.distributed_type = accelerate_state.DistributedType.FSDP
            # As it does on GPUs; trl asks for the state again.
            accelerate_state.PartialState._shared_state["distributed_type"] = self.distributed_type
            self.fsdp_plugin = plugin

    accelerate_state.AcceleratorState.__init__ = init


def optimise(name, folder=None):
    """Train a policy whose texts end at different lengths, at other ones in each process."""
    changes = POLICIES[name]
    chats = changes.get("format") == "chat"
    return train_policy(
        distributed_cases.PROMPTS,
        model=chatting() if chats else policy(0.5, ends=range(60, 120)),
        reward=random_judge(),
        config=PolicyConfig(**{**distributed_cases.POLICY.to_dict(), **changes}),
        output_dir=folder,
    )


def policies(folder, kind):
    """Train every policy, and write down what was found."""
    made = {name: optimise(name, folder / f"{kind}-{name}") for name in POLICIES}
    if kind == "divided":
        stop = partial(optimise, "chatted")
        left = distributed_cases.stop_within(stop, folder / "divided-resumed", 8)
        made["resumed"] = optimise("chatted", folder / "divided-resumed")
    else:
        left = []
    found = {
        "left": left,
        **{
            name: {"steps": one.log.steps, "measured": one.log.measurements}
            for name, one in made.items()
        },
    }
    rank = distributed.rank()
    (folder / f"{kind}-policies-{rank}.json").write_text(json.dumps(found))
    for name, one in made.items():
        weights = distributed_cases.weights(one.model.model)
        save_file(weights, folder / f"{kind}-{name}-{rank}.safetensors")


def trainings(folder):
    """Fine-tune, and train on pairs."""
    kinds = {
        "tuned": distributed_cases.tune,
        "reward": distributed_cases.judge,
        "dpo": partial(distributed_cases.prefer, eval_fraction=0.0),
    }
    made, left = {}, {}
    for name, train in kinds.items():
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


def main(folder):
    torch.set_num_threads(1)
    if not distributed.is_sharded():
        policies(folder, "whole")
        return
    allow_fsdp_on_cpus()
    policies(folder, "divided")
    trainings(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
