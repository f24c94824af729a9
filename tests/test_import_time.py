import subprocess
import sys

import pytest

import icm_fast


def run_python(code: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=timeout
    )
    return done.stdout.strip()


def test_import_is_quick():
    code = "import time; t = time.perf_counter(); import icm_fast; print(time.perf_counter() - t)"
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


def test_import_pulls_in_neither_torch_nor_the_command_line():
    code = (
        "import sys, icm_fast; icm_fast.SearchConfig(); "
        "print([m for m in ('torch', 'transformers', 'typer', 'rich') if m in sys.modules])"
    )
    assert run_python(code) == "[]"


def test_search_module_needs_no_torch():
    code = "import sys, icm_fast; icm_fast.search; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_reports_and_reviews_need_no_torch():
    code = "import sys, icm_fast.reports.server, icm_fast.reports; print('torch' in sys.modules)"
    assert run_python(code) == "False"


def test_trainings_leave_peft_to_the_first_one():
    """It imports bitsandbytes, which has to be kept from fetching code before that."""
    code = (
        "import sys, icm_fast.training.sft, icm_fast.training.dpo, icm_fast.training.reward, "
        "icm_fast.training.rl; print('peft' in sys.modules)"
    )
    assert run_python(code, timeout=300) == "False"


@pytest.mark.parametrize("name", [n for n in icm_fast.__all__ if n != "__version__"])
def test_every_public_name_loads(name):
    assert getattr(icm_fast, name) is not None
    assert name in dir(icm_fast)


def test_version_comes_from_the_installed_package(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 1.2.3")
    assert icm_fast.__version__ == "icm-fast 1.2.3"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        icm_fast.serach  # noqa: B018
