"""Trainings that are run by one process and by several, and what came out of them.

Started as a script in every process: the only argument is the folder for what they find.
"""

import copy
import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from chat_cases import chatting
from icm_fast import InputError, distributed
from icm_fast.model import load_model
from icm_fast.training.dpo import DpoConfig
from icm_fast.training.dpo import train as train_dpo
from icm_fast.training.reward import Pair, RewardConfig, train_reward
from icm_fast.training.reward.pool import label_pool
from icm_fast.training.rl import PolicyConfig, train_policy
from icm_fast.training.sft import TuningConfig, fine_tune
from tiny_models import MULTI, byte_tokenizer, mixed_labels, reviews, tiny_loaded, tiny_model

# Labels of two and of three tokens; 7 examples make batches of 3, 3 and 1.
TUNING = TuningConfig(
    epochs=2,
    batch_size=3,
    micro_batch_size=1,
    format="chat",
    learning_rate=1e-3,
    save_steps=2,
    dtype="float32",
)
REWARD = RewardConfig(
    epochs=2,
    batch_size=3,
    micro_batch_size=1,
    learning_rate=1e-3,
    dtype="float32",
    save_steps=2,
)
DPO = DpoConfig(
    epochs=2,
    batch_size=5,
    micro_batch_size=2,
    learning_rate=1e-3,
    dtype="float32",
    format="chat",
    eval_fraction=0.2,
    save_steps=2,
)
POLICY = PolicyConfig(
    steps=3,
    batch_size=3,
    group_size=4,
    micro_batch_size=2,
    max_new_tokens=5,
    n_held_out=3,
    eval_steps=2,
    sample_steps=1,
    save_steps=2,
    learning_rate=0.01,
    dtype="float32",
)
PROMPTS = tuple(f"What of film {k}?" for k in range(9))
PAIRS = tuple(
    Pair(prompt, f"great cast {'very ' * (k % 3)}{k}", f"dull {k}")
    for k, prompt in enumerate(PROMPTS[:7])
)


def overflowing():
    """A model whose first loss is not a number, on every processor."""
    loaded = chat_loaded()
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight.mul_(1e38)
    return loaded


def tune(folder=None, method="lora", model=None, callbacks=(), **changes):
    dataset = reviews(MULTI)
    return fine_tune(
        dataset,
        mixed_labels(dataset, unlabelled=(2,)),
        model=model or chat_loaded(),
        config=TuningConfig(**{**TUNING.to_dict(), "method": method, **changes}),
        output_dir=folder,
        callbacks=callbacks,
    )


def judge(folder=None, callbacks=(), **changes):
    config = RewardConfig(**{**REWARD.to_dict(), **changes})
    return train_reward(
        PAIRS, model=chat_loaded(), config=config, output_dir=folder, callbacks=callbacks
    )


def prefer(folder=None, **changes):
    config = DpoConfig(**{**DPO.to_dict(), **changes})
    return train_dpo(PAIRS, model=chat_loaded(), config=config, output_dir=folder)


def chat_loaded():
    """A model whose tokenizer has a chat template."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    return load_model((tiny_model("llama"), tokenizer))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def wrong(action):
    """What an action says is wrong."""
    try:
        action()
    except InputError as error:
        return str(error)
    return ""


class StoppedError(Exception):
    """Instead of a kill."""


@contextmanager
def gradient_norms():
    """The norm of the gradients of every step, before they are clipped."""
    true_sum, norms = distributed.sum_gradients, []

    def noting(parameters, *weight):
        parameters = list(parameters)
        true_sum(parameters, *weight)
        squares = [float(p.grad.double().square().sum()) for p in parameters if p.grad is not None]
        norms.append(sum(squares) ** 0.5)

    distributed.sum_gradients = noting
    try:
        yield norms
    finally:
        distributed.sum_gradients = true_sum


def averaged_gradients():
    """Of three parameters: one has a gradient everywhere, one in the main process, one nowhere."""
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), 1.0 + distributed.rank())
    if distributed.is_main():
        parameters[1].grad = torch.full((2,), 4.0)
    distributed.sum_gradients(parameters, 0.5)
    return [None if p.grad is None else p.grad.tolist() for p in parameters]


def stop_within(train, folder, n_sums, **changes):
    """Train until the processes have exchanged numbers so often; twice in a step, once with FSDP.

    Measurements of what is held out, and checkpoints, count too.

    Returns:
        The checkpoints that are left.
    """
    summed, n_left = distributed.summed, iter(range(n_sums))

    def stopping(values):
        if next(n_left, None) is None:
            raise StoppedError
        return summed(values)

    distributed.summed = stopping
    try:
        train(folder, **changes)
    except StoppedError:
        pass
    finally:
        distributed.summed = summed
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def policy(folder, reward):
    return train_policy(
        PROMPTS, model=tiny_loaded("llama"), reward=reward, config=POLICY, output_dir=folder
    )


def chatting_policy(folder, reward):
    """In the chat template, with two updates from the same continuations, in several passes."""
    config = PolicyConfig(
        **{**POLICY.to_dict(), "format": "chat", "num_iterations": 2, "steps": 4, "save_steps": 1}
    )
    return train_policy(PROMPTS, model=chatting(), reward=reward, config=config, output_dir=folder)


def optimise_and_stop(folder, reward, n_steps):
    """Optimise until the gradients of so many steps were summed; stops within the next one."""
    true_sum, n_left = distributed.sum_gradients, iter(range(n_steps))

    def stopping(*arguments):
        if next(n_left, None) is None:
            raise StoppedError
        true_sum(*arguments)

    distributed.sum_gradients = stopping
    try:
        chatting_policy(folder, reward)
    except StoppedError:
        pass
    finally:
        distributed.sum_gradients = true_sum


def main(folder):
    torch.set_num_threads(1)
    with gradient_norms() as norms:
        tuned = tune(folder / "tuned")
        full = tune(method="full")
        trained = judge(folder / "reward")
        preferred = prefer(folder / "dpo")
    started = stop_within(tune, folder / "resumed", 9)
    resumed = tune(folder / "resumed")
    started_pairs = [
        stop_within(judge, folder / "reward-resumed", 9, format="chat"),
        stop_within(prefer, folder / "dpo-resumed", 7, eval_fraction=0.0),
    ]
    judge_on = judge(folder / "reward-resumed", format="chat")
    judge_whole = judge(folder / "reward-whole", format="chat")
    prefer_on = prefer(folder / "dpo-resumed", eval_fraction=0.0)
    prefer_whole = prefer(folder / "dpo-whole", eval_fraction=0.0)
    pool = [{"response_1": pair.chosen, "response_2": pair.rejected} for pair in PAIRS]
    distributed.on_main(
        lambda: (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pool))
    )
    labelled = label_pool(trained.model, folder / "rows.jsonl", folder / "pool")
    optimised = policy(folder / "policy", trained.model)
    again = policy(folder / "policy", trained.model)
    chatted = chatting_policy(folder / "chatted", trained.model)
    optimise_and_stop(folder / "stopped", trained.model, 3)
    left = sorted(path.name for path in (folder / "stopped" / "checkpoints").iterdir())
    chatted_on = chatting_policy(folder / "stopped", trained.model)
    found = {
        "rank": distributed.rank(),
        "averaged": averaged_gradients(),
        "norms": norms,
        "tuned": tuned.losses,
        "full": full.losses,
        "reward": trained.losses,
        "dpo": preferred.losses,
        "dpo best": [preferred.best_step, preferred.best_loss],
        "resumed": resumed.losses,
        "started": started,
        "started pairs": started_pairs,
        "reward resumed": [judge_on.losses, judge_whole.losses],
        "dpo resumed": [prefer_on.losses, prefer_whole.losses],
        "n_rows": labelled.n_rows,
        "steps": optimised.log.steps,
        "measurements": optimised.log.measurements,
        "samples": optimised.log.samples,
        "policy": optimised.model.fingerprint,
        "policy again": again.model.fingerprint,
        "chatted": [chatted.log.steps, chatted.log.measurements, chatted.log.samples],
        "chatted on": [chatted_on.log.steps, chatted_on.log.measurements, chatted_on.log.samples],
        "chatted left": left,
        "other": wrong(lambda: tune(folder / "tuned", rank=2)),
        "unlike": wrong(lambda: tune(folder / "unlike", seed=distributed.rank())),
        "diverged": wrong(lambda: tune(model=overflowing(), learning_rate=10.0)),
        "indivisible": wrong(lambda: PolicyConfig(batch_size=7, group_size=3).n_episodes_of(2)),
    }
    (folder / f"found-{distributed.rank()}.json").write_text(json.dumps(found))
    made = {"tuned": tuned.model.model, "full": full.model.model, "reward": trained.model.network}
    made |= {"resumed": resumed.model.model, "dpo": preferred.model.model}
    for name, model in made.items():
        save_file(weights(model), folder / f"{name}-{distributed.rank()}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
