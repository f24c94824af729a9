"""Kills a real command with SIGKILL at random instants, and resumes it to the same bytes.

    python tests/runs/kills.py --n 100 [--subject search] [--model smollm2] [--seed 0]

Then two processes on one folder, and a disk that is full after every number of pages (a small
tmpfs, where one may be mounted): one line each, and the same bytes in the end.

Every trial starts in an empty folder, is killed once or twice, and is then run to its end. The
files have to be those of a run that nobody disturbed. A killed process is forked from this one,
which has imported torch and used nothing of it: so a trial takes as long as the command itself.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

N_ROWS = 12
N_TABLE = 64
_POLL_SECONDS = 0.0002


@dataclass(frozen=True)
class Subject:
    """A command that writes a folder and resumes in it.

    Attributes:
        name: For ``--subject``.
        command: Arguments of ``icm-fast``, from the folder of inputs and that of results.
        files: Results that must be the same bytes, as patterns of paths in the folder.
        summaries: JSON files of results, with the keys of each that may differ: counts and times of
            the last process.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    files: tuple[str, ...]
    summaries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def results(self, folder: Path) -> dict[str, bytes]:
        """The files to compare, by name."""
        content = {
            str(path.relative_to(folder)): path.read_bytes()
            for pattern in self.files
            for path in sorted(folder.glob(pattern))
        }
        for name, differing in self.summaries.items():
            summary = json.loads((folder / name).read_bytes())
            for key in differing:
                del summary[key]
            content[name] = json.dumps(summary).encode()
        return content

    def is_whole(self, folder: Path) -> bool:
        """Whether there is something of all results."""
        return all(any(folder.glob(name)) for name in (*self.files, *self.summaries))


def _search(inputs: Path, folder: Path) -> list[str]:
    # Twenty small evaluations after a start of four: most of the time goes to writing.
    arguments = ["search", "custom", str(inputs / "task.yaml"), "--model", model_of(inputs)]
    for setting in ("preset=paper", "n_initial=4", "max_evaluations=40", "device=cpu"):
        arguments += ["--set", setting]
    return [*arguments, "--progress", "none", "--output", str(folder)]


SEARCH = Subject(
    name="search",
    command=_search,
    files=("config.yaml", "examples.jsonl", "evaluations.bin", "events.jsonl", "labels.jsonl"),
    summaries={"summary.json": ("seconds", "n_evaluations_resumed")},
)


def _label(inputs: Path, folder: Path) -> list[str]:
    # Two cores, and chunks so small that most of the time goes to writing.
    arguments = ["label", str(inputs / "table.jsonl"), "--text", "text", "--labels", "spam,mail"]
    for setting in ("core_size=8", "cores=2", "chunk_rows=4", "device=cpu"):
        arguments += ["--set", setting]
    arguments += ["--model", model_of(inputs), "--folder", str(folder), "--progress", "none"]
    return [*arguments, "-o", str(folder / "labelled.csv")]


LABEL = Subject(
    name="label",
    command=_label,
    files=(
        *("labelling.json", "settings.json", "decision.npz", "labelled.csv", "views/*.bin"),
        *("cores/*/evaluations.bin", "cores/*/events.jsonl", "cores/*/labels.jsonl"),
    ),
    summaries={"summary.json": ("seconds",)},
)
SUBJECTS = {subject.name: subject for subject in (SEARCH, LABEL)}


def model_of(inputs: Path) -> str:
    """The model that the inputs name, for ``--model``."""
    named = inputs / "model.txt"
    return named.read_text() if named.exists() else str(inputs / "model")


def write_inputs(inputs: Path, model: str | None = None) -> Path:
    """Write rows, their task and a tiny random model, or the name of an installed one."""
    inputs.mkdir(parents=True, exist_ok=True)
    rows = [{"text": f"message {row}: {'free' if row % 3 else 'hello'}"} for row in range(N_ROWS)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (inputs / "rows.jsonl").write_text(lines)
    table = [{"text": f"message {row}: {'free' if row % 3 else 'hello'}"} for row in range(N_TABLE)]
    (inputs / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    (inputs / "task.yaml").write_text(
        'data: rows.jsonl\ntemplate: "Message: {text}\\nKind:"\nlabels: [" spam", " mail"]\n'
    )
    if model is not None:
        (inputs / "model.txt").write_text(model)
    elif run_in_child(lambda: _write_model(inputs / "model")) != 0:
        raise SystemExit("the tiny model could not be written")
    return inputs


def _write_model(folder: Path) -> int:
    from tiny_models import byte_tokenizer, tiny_model

    tiny_model("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return 0


# --- processes ---------------------------------------------------------------


def load_libraries() -> None:
    """Import what the commands import, and start no thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    import icm_fast.cli.commands
    import icm_fast.engine.search
    import icm_fast.evaluation.report
    import icm_fast.labelling
    import icm_fast.model
    import icm_fast.scoring.factory  # noqa: F401


def fork(work: Callable[[], int], errors: Path | None = None) -> int:
    """Start ``work`` in a child process; its standard error goes to a file, the rest nowhere."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for descriptor, path in ((1, os.devnull), (2, str(errors or os.devnull))):
            opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.dup2(opened, descriptor)
        code = work()
        sys.stderr.flush()
    finally:
        os._exit(code)


def run_in_child(work: Callable[[], int], errors: Path | None = None) -> int:
    """Exit code of ``work`` in a child process; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work, errors), 0)[1])


def command_line(arguments: list[str]) -> Callable[[], int]:
    """The command line as the work of a child."""

    def work() -> int:
        from icm_fast.cli import run

        sys.stderr = os.fdopen(2, "w", closefd=False)
        return run(arguments)

    return work


# --- trials ------------------------------------------------------------------


@dataclass
class Trials:
    """Kills of one subject.

    Attributes:
        subject: What is killed.
        inputs: From :func:`write_inputs`.
        folder: Where trials write.
        rng: Draws the instants.
        found: What the folders held when they were killed: how often.
    """

    subject: Subject
    inputs: Path
    folder: Path
    rng: random.Random
    found: Counter[str] = field(default_factory=Counter)
    expected: dict[str, bytes] = field(init=False)
    seconds: float = field(init=False)

    def __post_init__(self) -> None:
        """Run undisturbed, for the expected bytes and the time that it takes."""
        self.finish(self.folder / "first")
        began = time.monotonic()
        self.finish(self.folder / "second")
        self.seconds = time.monotonic() - began
        self.expected = self.subject.results(self.folder / "first")
        if self.expected != self.subject.results(self.folder / "second"):
            raise SystemExit("two undisturbed runs differ")

    def run(self, n_kills: int, report: Callable[[str], None] = print) -> int:
        """Kill ``n_kills`` times; return in how many the resumed run had the same bytes."""
        n_same = n_done = 0
        while n_done < n_kills:
            folder = self.folder / "trial"
            shutil.rmtree(folder, ignore_errors=True)
            n_now = 0
            for _ in range(1 + (self.rng.random() < 0.3)):
                if n_done + n_now < n_kills:
                    n_now += self.killed(folder, at_write=self.rng.random() < 0.5)
            if n_now == 0:
                continue
            self.finish(folder)
            same = self.subject.results(folder) == self.expected
            n_same += n_now * same
            n_done += n_now
            if not same:
                kept = self.folder / f"differs-{n_done}"
                shutil.copytree(folder, kept)
                report(f"kill {n_done}: other bytes, kept in {kept}")
        return n_same

    def killed(self, folder: Path, *, at_write: bool) -> bool:
        """Start the command and kill it; return False if it had ended before.

        Args:
            folder: Where it writes.
            at_write: Wait from the random instant for the next change in the folder.
        """
        delay = self.rng.uniform(0, self.seconds)
        pid = fork(command_line(self.subject.command(self.inputs, folder)))
        time.sleep(delay)
        if at_write:
            _await_change(folder, pid)
        os.kill(pid, signal.SIGKILL)  # still ours, even if it has ended
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != -signal.SIGKILL:
            assert code == 0, f"the command ended with code {code}"
            return False
        self.found[self._state(folder)] += 1
        return True

    def finish(self, folder: Path) -> None:
        """Run the command to its end."""
        errors = self.folder / "errors.txt"
        code = run_in_child(command_line(self.subject.command(self.inputs, folder)), errors)
        if code != 0:
            raise SystemExit(f"not resumed, exit code {code}: {errors.read_text()}")

    def _state(self, folder: Path) -> str:
        names = {path.name for path in folder.rglob("*")} if folder.is_dir() else set()
        if not names:
            return "before the first file"
        if any(name.endswith(".tmp") for name in names):
            return "between a file and its name"
        if not self.subject.is_whole(folder):
            return "with some of the files"
        return "with all files"


# --- two processes, a full disk ----------------------------------------------

_TRIES = 5


def one_line_of(trials: Trials, folder: Path) -> str | None:
    """Run the command; the one line of its refusal, None if it ended well."""
    errors = trials.folder / "errors.txt"
    code = run_in_child(command_line(trials.subject.command(trials.inputs, folder)), errors)
    text = errors.read_text()
    if code == 0:
        return None
    if code != 2 or text.count("\n") != 1 or not text.startswith("icm-fast: "):
        raise SystemExit(f"exit code {code} and not one line: {text!r}")
    return text.strip()


def second_process_is_refused(trials: Trials) -> str:
    """Run two commands on one folder; the line of the second. The first must not notice.

    A first one that had ended before it could be stopped says nothing, so there are some tries.
    """
    for number in range(_TRIES):
        folder = trials.folder / f"two-{number}"
        pid = fork(command_line(trials.subject.command(trials.inputs, folder)))
        _await_change(folder, pid)
        os.kill(pid, signal.SIGSTOP)
        line = one_line_of(trials, folder)
        os.kill(pid, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != 0 or trials.subject.results(folder) != trials.expected:
            raise SystemExit(f"two processes on one folder: {line}, exit code {code}")
        if line is not None:
            return line
    raise SystemExit(f"two processes on one folder: none of {_TRIES} was refused")


def full_disks(trials: Trials, most: int) -> tuple[int, str] | None:
    """Fill a disk after 1, 2, ... pages, until the command fits or ``most`` were tried.

    Returns:
        How many disks were too small, and the last line; None where none may be mounted.
    """
    line = ""
    for pages in range(1, most + 1):
        disk = trials.folder / f"disk-{pages}"
        disk.mkdir()
        size = f"size={pages * os.sysconf('SC_PAGE_SIZE')}"
        mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)]
        if subprocess.run(mount, capture_output=True).returncode != 0:
            return None
        try:
            refusal = one_line_of(trials, disk / "run")
            if refusal is None:
                return pages - 1, line
            line = refusal
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            trials.finish(disk / "run")
            if trials.subject.results(disk / "run") != trials.expected:
                raise SystemExit(f"a disk of {pages} pages: other bytes")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return most, line


def _await_change(folder: Path, pid: int) -> None:
    """Wait until a file of the folder appears, grows or goes, or the process has ended."""
    before = _signature(folder)
    while _signature(folder) == before:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(_POLL_SECONDS)


def _signature(folder: Path) -> list[tuple[str, int]]:
    try:
        return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))
    except FileNotFoundError:  # not there yet, or a temporary that was renamed meanwhile
        return []


def main() -> int:
    """Run the command line above."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=100, help="kills")
    parser.add_argument("--subject", choices=sorted(SUBJECTS), default="search")
    parser.add_argument("--model", help="an installed model instead of a tiny random one")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--disks", type=int, default=100, help="sizes of full disks")
    arguments = parser.parse_args()
    load_libraries()
    with tempfile.TemporaryDirectory(prefix="icm-fast-kills-") as place:
        inputs = write_inputs(Path(place) / "inputs", arguments.model)
        rng = random.Random(arguments.seed)
        trials = Trials(SUBJECTS[arguments.subject], inputs, Path(place), rng)
        print(f"{arguments.subject}: {trials.seconds:.2f} s undisturbed", flush=True)
        n_same = trials.run(arguments.n)
        second = second_process_is_refused(trials)
        disks = full_disks(trials, arguments.disks)
    for state, count in sorted(trials.found.items()):
        print(f"{count:4d} killed {state}")
    print(f"{n_same} of {arguments.n} kills resumed to identical bytes")
    print(f"a second process: {second}")
    if disks is None:
        print("a full disk: not tried, since no tmpfs may be mounted here")
    else:
        print(f"{disks[0]} disks that were too small, then the same bytes: {disks[1]}")
    return int(n_same != arguments.n)


if __name__ == "__main__":
    sys.exit(main())
