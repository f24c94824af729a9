"""One function expands ``~`` everywhere, and says what is wrong where there is no home."""

from pathlib import Path

import pytest

import icm_fast
from icm_fast.errors import InputError
from icm_fast.files import check_name, expanded
from icm_fast.model import load_model
from icm_fast.model.adapters import base_name_of
from icm_fast.tasks.registry import load_task

PACKAGE = Path(icm_fast.__file__).resolve().parent


def test_nothing_else_expands_a_path():
    found = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if "expanduser()" in path.read_text(encoding="utf-8")
    ]
    assert found == ["files/__init__.py"]


def test_a_home_that_does_not_exist_is_one_line():
    missing = "~no-such-user-here/x"
    for use in (
        lambda: expanded(missing),
        lambda: load_model(missing),
        lambda: load_task("truthfulqa", missing + ".jsonl"),
        lambda: load_task("custom", missing + ".yaml"),
    ):
        with pytest.raises(InputError, match=r"the home in .* is unknown") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_links_beside_an_adapter_do_not_lead_to_its_base(tmp_path):
    """``..`` goes up from where the adapter is, not from where a link ends."""
    for name in ("there/base", "elsewhere/inner", "there/adapter"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "elsewhere" / "base").mkdir()
    (tmp_path / "there" / "link").symlink_to(tmp_path / "elsewhere" / "inner")
    adapter = tmp_path / "there" / "adapter"
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "../link/../base", "target_modules": []}'
    )
    assert base_name_of(adapter) == str(tmp_path / "there" / "base")


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "y/" * 3000, "half \ud800 a character"])
def test_names_that_no_file_can_have_are_refused(name):
    # The last one was found by fuzzing: JSON can hold it, no file system can.
    with pytest.raises(InputError, match="is not a name that a file can have") as caught:
        check_name("the base", name)
    str(caught.value).encode()
