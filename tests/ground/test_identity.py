"""Stored identities against requested ones: the first difference, by its setting."""

import pytest

from icm_fast.errors import InputError
from icm_fast.identity import as_stored, check_same, json_digest, refuse_differences

STORED = {"config": {"rank": 8, "seed": 0}, "data": "abc"}


def test_equal_identities_pass(tmp_path):
    check_same(tmp_path, STORED, {"data": "abc", "config": {"seed": 0, "rank": 8}}, "fine-tuning")
    refuse_differences(tmp_path, [], "run")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (STORED | {"data": "xyz"}, "data is 'abc' there and 'xyz' here; choose another"),
        (
            {"config": {"rank": 2, "seed": 1}, "data": "abc"},
            r"rank is 8 there and 2 here \(also different: seed\); choose another",
        ),
        (STORED | {"more": 1}, "more is None there and 1 here"),
        ({"config": STORED["config"]}, "data is 'abc' there and None here"),
        (STORED | {"data": "x" * 99}, r"data is 'abc' there and 'x{19}[.]{3} here"),
    ],
)
def test_the_first_difference_is_named(tmp_path, wanted, message):
    with pytest.raises(InputError, match=f"holds a different fine-tuning: {message}") as caught:
        check_same(tmp_path, STORED, wanted, "fine-tuning")
    assert "\n" not in str(caught.value)


def test_names_of_others_stay_on_one_short_line(tmp_path):
    # Found by fuzzing: the names of what a folder holds are whatever is in its files.
    stored = {"a\nb": 1, "x" * 5000: 2, **{f"name {k}": k for k in range(500)}}
    with pytest.raises(InputError) as caught:
        check_same(tmp_path, stored, {}, "fine-tuning")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 4000
    assert "and 421 more" in str(caught.value)


def test_an_identity_survives_storage():
    assert as_stored({"sizes": (1, 2), "name": None}) == {"sizes": [1, 2], "name": None}
    assert json_digest({"a": (1, 2)}) == json_digest({"a": [1, 2]})
    assert json_digest({"a": 1}) != json_digest({"a": 2})
