"""The pixels of what is drawn as a picture over a slide."""

import numpy as np
import pytest

from melano_tf.view.lattice import COARSE_PX, MOST_PX, Lattice, coarse, fine


@pytest.mark.parametrize("size", [(3000, 2000), (100_000, 61_234), (700, 5000)])
def test_the_window_is_drawn_as_fine_as_the_screen(size: tuple[int, int]) -> None:
    whole, rng = coarse(size), np.random.default_rng(0)
    assert max(whole.shape) <= COARSE_PX and whole.step == int(whole.step)
    assert all(whole.step > reach - length >= 0 for reach, length in zip(whole.size, size, strict=True))
    for step in (0.1, 0.37, 1.0, 2.4, 40.0):
        left, top = (rng.uniform(0, length) for length in size)
        window = (left, top, left + 900 * step, top + 660 * step)
        found = fine(size, window, step)
        if step >= whole.step:
            assert found is None
            continue
        assert found is not None and found.step <= step and found.shape[0] * found.shape[1] <= MOST_PX
        right, bottom = found.x + found.size[0], found.y + found.size[1]
        assert found.x <= left and found.y <= top
        assert right >= min(window[2], size[0]) - 1e-6 and bottom >= min(window[3], size[1]) - 1e-6
        assert found.x % whole.step == found.y % whole.step == 0 and found.holds(found)
        assert not whole.holds(found)


def test_what_cannot_be_finer_or_is_off_the_slide_is_not_drawn_finely() -> None:
    size = (100_000, 61_234)
    assert fine(size, (-500.0, 0.0, -10.0, 400.0), 1.0) is None
    assert fine(size, (float("nan"), 0.0, 10.0, 400.0), 1.0) is None
    assert fine((900, 700), (0.0, 0.0, 900.0, 700.0), 1.0) is None


def test_a_picture_ends_where_the_slide_ends() -> None:
    inside = Lattice(6, 3, (4, 5), 3.0).within((15, 11))  # centres 7.5, 10.5, … across and 4.5, 7.5, … down
    assert inside.tolist() == [[True] * 3 + [False] * 2] * 3 + [[False] * 5]
