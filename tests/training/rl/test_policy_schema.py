"""The schema of a policy's training offers what its settings accept."""

import pytest

from icm_fast.config import limits
from icm_fast.errors import InputError
from icm_fast.training.rl.config import PolicyConfig


def test_full_training_is_not_offered_and_its_refusal_says_why():
    assert limits(PolicyConfig)["method"].schema()["enum"] == ["lora"]
    assert PolicyConfig(method="lora").method == "lora"
    with pytest.raises(InputError, match="second copy of the policy"):
        PolicyConfig(method="full")
    with pytest.raises(InputError, match="unknown method 'ful'"):
        PolicyConfig(method="ful")
