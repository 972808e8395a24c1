"""Images as they are sent: few bytes, in their place."""

import numpy as np
import pytest

from phaseloom.web.state.images import LEVELS, MAX_SIDE, prepare_image


def test_a_large_object_is_sent_in_less_than_300_kilobytes():
    sent = prepare_image(np.random.default_rng(0).normal(size=(2053, 2048)))
    assert sent.levels.dtype == np.uint8
    assert sent.levels.nbytes <= 300_000


@pytest.mark.parametrize("shape", [(7, 5), (513, 40), (2053, 2047)])
def test_the_extent_covers_the_image(shape):
    sent = prepare_image(np.zeros(shape), pixel=(2.0, 3.0), corner=(-1.0, 5.0))
    assert sent.corner == (-1.0, 5.0)
    for got, count, pixel, sent_pixel in zip(sent.extent, shape, (2.0, 3.0), sent.pixel, strict=True):
        assert 0 <= got - count * pixel < sent_pixel


def test_what_is_zoomed_into_is_sent_in_full():
    values = np.arange(1500.0 * 1500).reshape(1500, 1500)
    sent = prepare_image(values, pixel=(0.5, 0.5), corner=(10.0, 20.0), window=(60.0, 70.0, 110.0, 170.0))
    assert sent.pixel == (0.5, 0.5)
    assert sent.levels.shape == (100, 200)
    assert sent.corner == (60.0, 70.0)


def test_a_window_beside_the_image_is_its_nearest_pixel():
    sent = prepare_image(np.zeros((10, 10)), window=(-50.0, 400.0, -40.0, 500.0))
    assert sent.levels.shape == (1, 1)


def test_levels_keep_values_to_half_a_step():
    values = np.linspace(-3, 5, 64).reshape(8, 8)
    sent = prepare_image(values, span=(-3.0, 5.0))
    back = sent.low + sent.levels * (sent.high - sent.low) / LEVELS
    assert np.abs(back - values).max() <= 0.51 * 8 / LEVELS


def test_missing_values_have_a_level_of_their_own():
    values = np.ones((4, 4))
    values[1, 2] = np.nan
    levels = prepare_image(values).levels
    assert levels[1, 2] == 255
    assert (levels == 255).sum() == 1


def test_an_image_of_one_value_or_of_none_is_sent():
    for values in (np.full((3, 3), 2.0), np.full((3, 3), np.nan)):
        assert prepare_image(values).levels.shape == (3, 3)


def test_no_side_is_longer_than_the_most():
    assert max(prepare_image(np.zeros((MAX_SIDE + 1, 3))).levels.shape) <= MAX_SIDE
