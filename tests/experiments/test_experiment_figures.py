"""Which lines there are, and points of several ones at one x side by side, around it."""

import pytest

from icm_fast.experiments.figures import Places, _line_points


@pytest.mark.parametrize("log", [False, True])
def test_points_of_several_lines_stand_side_by_side(log):
    xs = [8, 16, 128]
    place = Places(xs, 3, log=log)
    found = [[place.of(x, line) for line in range(3)] for x in xs]
    for x, (left, middle, right) in zip(xs, found, strict=True):
        assert middle == pytest.approx(x)
        assert left < middle < right
    assert found[0][2] < found[1][0]
    assert found[1][2] < found[2][0]
    # Equally far apart at every x as the axis shows it.
    ratios = [(right / left if log else right - left) for left, _, right in found]
    assert ratios == pytest.approx([ratios[0]] * 3)


def test_one_x_and_one_line_are_places_too():
    assert Places([5.0], 1, log=True).of(5.0, 0) == pytest.approx(5.0)
    assert Places([5.0], 2, log=False).of(5.0, 0) < 5.0


def column(model, x, **methods):
    return {
        "model": model,
        "x": x,
        "methods": {name: {"calibrated": value} for name, value in methods.items()},
        "search": {"seeds": [{"agreement": 0.5}, {"agreement": 0.7}]},
    }


def test_models_that_share_an_x_have_lines_of_their_own():
    lines = _line_points([column(model, x, icm=x) for x in (8, 16) for model in "ab"])
    assert [line.label for line in lines] == [
        f"{what}, {model}"
        for model in "ab"
        for what in ("ICM, calibrated accuracy", "found labels, agreement with gold")
    ]
    assert [[x for x, _ in line.points] for line in lines] == [[8, 16]] * 4
    assert lines[0].style != lines[2].style
    assert lines[1].style != lines[3].style


def test_a_line_over_sizes_of_models_goes_through_all_of_them():
    lines = _line_points([column("a", 135, icm=1, golden=2), column("b", 270, icm=3)])
    assert [line.label for line in lines] == [
        "ICM, calibrated accuracy",
        "golden labels, calibrated accuracy",
        "found labels, agreement with gold",
    ]
    assert lines[0].points == [(135, 1), (270, 3)]
    assert lines[1].points == [(135, 2)]
    assert lines[2].points[0][1]["accuracy"] == pytest.approx(0.6)
