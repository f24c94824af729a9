"""Points of several lines at one x stand side by side, around it."""

import pytest

from icm_fast.experiments.figures import Places


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
