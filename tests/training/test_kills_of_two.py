"""Two processes of a training, killed by SIGKILL one at a time and together: the same bits."""

import signal

import pytest

import killed_cases
from two_processes import run_two

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL


def run(folder, where=""):
    return run_two(killed_cases.__file__, str(folder), where, timeout=300)


def marked(folder, kind):
    """Steps of the checkpoints that are whole."""
    found = (folder / kind / "checkpoints").glob("checkpoint-*/complete.json")
    return sorted(int(path.parent.name.partition("-")[2]) for path in found)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an uninterrupted fine-tuning and reward model leave."""
    folder = tmp_path_factory.mktemp("whole")
    ended = run(folder)
    assert ended.codes == [0, 0], "".join(ended.said)
    return folder


@pytest.mark.parametrize("kind", ["tuned", "reward"])
def test_killed_processes_resume_to_the_same_bits(kind, whole, tmp_path):
    """With accumulation, in the chat template."""
    second = run(tmp_path, f"{kind}:step:3:1")
    assert second.codes[1] == KILLED
    assert second.codes[0] not in (0, KILLED)  # it does not wait for the other one
    assert marked(tmp_path, kind) == [2]
    main = run(tmp_path, f"{kind}:step:3:0")
    assert main.codes[0] == KILLED
    assert main.codes[1] not in (0, KILLED)
    both = run(tmp_path, f"{kind}:saved:4:01")
    assert both.codes == [KILLED, KILLED]
    assert marked(tmp_path, kind) == [2]  # the one of step 4 was written and not marked
    ended = run(tmp_path)
    assert ended.codes == [0, 0], "".join(ended.said)
    for name in ("adapter/adapter_model.safetensors", "steps.jsonl"):
        assert (tmp_path / kind / name).read_bytes() == (whole / kind / name).read_bytes()
