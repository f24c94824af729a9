"""The cost curve and its exponents."""

import dataclasses
import json

import pytest
from bench_case import LocalLauncher

from benchmarks.engines.curve import FITTED, exponents, run_curve
from benchmarks.engines.curve_report import curve_plot, curve_table
from benchmarks.engines.run import Settings
from icm_fast.errors import InputError
from tiny_models import one_thread  # noqa: F401


def curve(case, launcher, sizes):
    settings = Settings(repeats=2)
    return run_curve(case, sizes, launcher, settings, None, "python -m benchmarks.engines --curve")


def test_exponents_of_power_laws():
    points = [
        (n, {"seconds": 3.0 * n**1.5, "tokens": 7.0 * n, "flops": n**2, "kv_pool_bytes": 5.0})
        for n in (8, 16, 64)
    ]
    found = exponents(points)
    assert found["seconds"] == pytest.approx(1.5)
    assert found["tokens"] == pytest.approx(1)
    assert found["flops"] == pytest.approx(2)
    assert found["kv_pool_bytes"] == pytest.approx(0, abs=1e-12)


def test_exponents_are_least_squares():
    values = {8: 1.0, 16: 4.0, 32: 4.0}
    points = [(n, dict.fromkeys(FITTED, value)) for n, value in values.items()]
    # log2: (3, 0), (4, 2), (5, 2): slope 1.
    assert exponents(points)["tokens"] == pytest.approx(1)


def test_one_size_has_no_exponent():
    assert exponents([(8, dict.fromkeys(FITTED, 1.0))]) == dict.fromkeys(FITTED)


def test_curve_leaves_out_what_does_not_fit(tiny_case, launcher):
    found = json.loads(json.dumps(curve(tiny_case, launcher, [4, 8, 80])))
    assert [point["n"] for point in found["points"]] == [4, 8]
    assert "the largest n that fits" in found["left_out"]["80"]
    small, large = found["points"]
    for key in ("tokens", "kv_pool_bytes"):
        assert 0 < small[key] < large[key]
    assert small["flops"]["attention"] < large["flops"]["attention"]
    assert large["answers"]["correct"]
    assert 1 < found["exponents"]["tokens"] < 2
    table = curve_table(found)
    assert "Left out, n = 80" in table
    assert f"tokens n^{found['exponents']['tokens']:.2f}" in table
    assert curve_plot(found).startswith(b"\x89PNG")


def test_curve_of_one_size_can_be_told(tiny_case, launcher):
    found = curve(tiny_case, launcher, [8])
    assert "two sizes are needed" in curve_table(found)
    assert curve_plot(found).startswith(b"\x89PNG")


def test_no_size_at_all_is_an_error(tiny_case, launcher):
    with pytest.raises(InputError, match="no size could be measured"):
        curve(dataclasses.replace(tiny_case), launcher, [80])


def test_wrong_answers_end_the_curve(tiny_case):
    class Wrong(LocalLauncher):
        def run(self, peer, job):
            result = super().run(peer, job)
            if peer == "ours":
                result["scores"] = [[-x for x in row] for row in result["scores"]]
            return result

    with pytest.raises(RuntimeError, match="are wrong"):
        curve(tiny_case, Wrong({}), [8])
