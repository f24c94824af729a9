"""A toy preference, and a training of seconds on it, for the tests of this folder."""

import json

from icm_fast.training.reward import Pair, RewardConfig, train_reward
from tiny_models import REVIEWS, tiny_loaded

CONFIG = RewardConfig(
    epochs=4,
    batch_size=4,
    micro_batch_size=3,
    learning_rate=0.01,
    lora_dropout=0.2,
    save_steps=3,
    dtype="float32",
)
TOPICS = ("film", "cast", "plot", "end", "wonder", "smile")


def toy_pairs(n=12, margin=0.0):
    """The response that says `good` is better, whatever else it says."""
    return [
        Pair(
            prompt=f"What of the {TOPICS[k % 6]}?",
            chosen=f"{REVIEWS[k % 8]}, good {TOPICS[k % 5]}",
            rejected=f"{REVIEWS[(k + 3) % 8]}, bad {TOPICS[k % 5]}",
            margin=margin,
        )
        for k in range(n)
    ]


def train(folder=None, progress=None, method="lora", pairs=None, loaded=None, **changes):
    config = RewardConfig(**{**CONFIG.to_dict(), "method": method, **changes})
    return train_reward(
        toy_pairs() if pairs is None else pairs,
        model=loaded or tiny_loaded("llama"),
        config=config,
        output_dir=folder,
        progress=progress,
    )


def save_base(folder, **changes):
    """A folder with a tiny model that can be named."""
    loaded = tiny_loaded("llama", **changes)
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pool_rows(n=150):
    """Unlabelled pairs of the toy preference, the better response now first, now second."""
    rows = []
    for k in range(n):
        good, bad = f"{REVIEWS[k % 8]}, good {k}", f"{REVIEWS[(k + 5) % 8]}, bad {k}"
        first, second = (good, bad) if k % 3 else (bad, good)
        rows.append({"prompt": f"What of {k}?", "response_1": first, "response_2": second})
    return rows


def pool_pairs(n):
    """The pairs behind :func:`pool_rows`."""
    pairs = []
    for row in pool_rows(n):
        good, bad = sorted((row["response_1"], row["response_2"]), key=lambda text: "bad" in text)
        pairs.append(Pair(row["prompt"], good, bad))
    return pairs
