"""The manifest and the script for clusters: their syntax, and commands that exist."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from benchmarks.cluster_cost import START_SECONDS, Stages, table
from icm_fast.cli.commands import app

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def options_of(name: str) -> set[str]:
    command = typer.main.get_command(app).commands[name]
    return {word for parameter in command.params for word in parameter.opts}


def check_command(words: list[str]) -> None:
    assert words[:2] == ["icm-fast", "label"]
    used = {word for word in words if word.startswith("-") and word != "-o"}
    assert used <= options_of("label")
    assert "--ray" in used


def test_the_manifest_has_what_kuberay_requires():
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["metadata"]["name"]
    check_command(shlex.split(job["spec"]["entrypoint"]))
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["name"]
        assert container["image"] == groups[0]["template"]["spec"]["containers"][0]["image"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
        assert not any("KEY" in variable["name"] for variable in container["env"])
    for group in groups[1:]:
        assert group["groupName"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    pinned = next(
        line
        for line in (DEPLOY.parent / "constraints-ray.txt").read_text().splitlines()
        if line.startswith("ray==")
    )
    assert pinned == f"ray=={cluster['rayVersion']}"


def test_the_script_of_slurm():
    path = DEPLOY / "slurm.sh"
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    text = path.read_text()
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    first_command = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [line for line in lines[:first_command] if line.startswith("#SBATCH ")]
    assert len(directives) == text.count("#SBATCH ")  # later ones would be ignored
    assert all(line.startswith("#SBATCH --") for line in directives)
    command = text[text.index("icm-fast label") :].replace("\\\n", " ")
    check_command(shlex.split(command))


def test_a_fault_of_the_script_would_be_found(tmp_path):
    broken = (DEPLOY / "slurm.sh").read_text().replace("done\n", "", 1)
    (tmp_path / "broken.sh").write_text(broken)
    assert subprocess.run(
        ["bash", "-n", str(tmp_path / "broken.sh")], capture_output=True
    ).returncode


@pytest.mark.slow
def test_the_table_of_the_page_is_that_of_the_script():
    page = (DEPLOY.parent / "docs" / "cluster.md").read_text()
    for line in table():
        assert line in page


def test_the_stages_of_the_table_add_up():
    assert Stages(1, 1.0, 2.0, 3.0, 4.0).total == pytest.approx(START_SECONDS + 10.0)
