"""Prompt files, and that policies and reward models read the same texts."""

import json

import pytest

from icm_fast.errors import InputError
from icm_fast.plan.pieces import root_ids
from icm_fast.training.reward import Pair, RewardConfig, reward_text
from icm_fast.training.reward.text import reward_ids
from icm_fast.training.reward.trainer import pair_ids
from icm_fast.training.rl import judged_text, policy_text, read_prompts
from tiny_models import byte_tokenizer

PROMPTS = ("Why is the sky blue?", "a\nb", " led by a blank", "Human: no\n\nAssistant: yes")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_dialogue_is_judged_as_reward_models_are_trained(prompt):
    response = "Scattering,\nmostly. "
    continuation = f" {response}"
    whole = policy_text("dialogue", prompt) + continuation
    assert whole == judged_text("dialogue", prompt, continuation) == reward_text(prompt, response)
    # One blank belongs to the format, and a continuation without it is not glued to the colon.
    assert judged_text("dialogue", prompt, response) == reward_text(prompt, response)
    assert judged_text("dialogue", prompt, f"  {response}") == reward_text(prompt, f" {response}")


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_continued_text_is_judged_as_one(prompt):
    for continuation in (" and more", "s, too", ""):
        assert policy_text("continuation", prompt) == prompt
        judged = judged_text("continuation", prompt, continuation)
        assert judged == reward_text("", prompt + continuation) == prompt + continuation


def test_the_judge_reads_the_token_ids_of_its_training():
    tokenizer = byte_tokenizer(bos=True)
    pairs = [Pair("Why?", "So it is.", "bad"), Pair("", "a warm film", "a dull film")]
    trained = [p.chosen for p in pair_ids(pairs, tokenizer, RewardConfig(), 512)]
    asked = (
        judged_text("dialogue", "Why?", " So it is."),
        judged_text("continuation", "a warm", " film"),
    )
    assert [reward_ids(text, tokenizer) for text in asked] == trained
    # What the policy read and wrote are those ids, too, but for the end.
    head = tokenizer(policy_text("dialogue", "Why?"), add_special_tokens=False)["input_ids"]
    rest = tokenizer(" So it is.", add_special_tokens=False)["input_ids"]
    assert (*root_ids(tokenizer), *head, *rest, tokenizer.eos_token_id) == trained[0]


def test_kinds_and_blank_prompts():
    with pytest.raises(InputError, match="unknown kind of prompts 'dialog'; did you mean 'dial"):
        policy_text("dialog", "Why?")
    with pytest.raises(InputError, match="did you mean 'continuation'"):
        judged_text("continuations", "Why?", " So.")
    for kind in ("dialogue", "continuation"):
        with pytest.raises(InputError, match="a prompt is blank"):
            policy_text(kind, " \n")
    with pytest.raises(InputError, match="a prompt is blank"):
        judged_text("dialogue", "", " So.")


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_files_of_every_form(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["b\nin two", "a, quoted", "b\nin two", "a, quoted", "b\nin two", "c"]
    rows = [{"prompt": text, "label": 1} for text in texts]
    lines = write(tmp_path / "p.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    table = write(tmp_path / "p.csv", "prompt\n" + "".join(f'"{text}"\n' for text in texts))
    whole = write(tmp_path / "p.json", json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    for path in (lines, table, whole, tmp_path / "p.parquet"):
        found = read_prompts(path)
        assert found.prompts == ("b\nin two", "a, quoted", "c")
        assert found.n_repeated == 3
    plain = read_prompts(write(tmp_path / "p.TXT", "one\r\n\n  \n two \none\n"))
    assert plain.prompts == ("one", " two ")
    assert plain.n_repeated == 1


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (
            "p.jsonl",
            '{"prompt": "a"}\n\n{"text": "b"}\n',
            "p.jsonl, line 3: column 'prompt' is m",
        ),
        ("p.jsonl", '{"prompt": " "}\n', "line 1: column 'prompt' is empty"),
        (
            "p.jsonl",
            '{"prompt": [{"role": "user"}]}\n',
            "line 1: column 'prompt', message 1 is not",
        ),
        ("p.jsonl", "{\n", "p.jsonl, line 1: not JSON"),
        ("p.csv", "prompt\na,b\n", "p.csv, line 2: not 1 fields"),
        ("p.txt", "\n \n", "p.txt contains no prompts"),
        ("p.md", "a", "unknown file type"),
    ],
)
def test_bad_files_are_named_with_their_line(name, content, words, tmp_path):
    with pytest.raises(InputError, match=words):
        read_prompts(write(tmp_path / name, content))
    with pytest.raises(InputError, match="no file at"):
        read_prompts(tmp_path / "absent.txt")
