"""Laws of depth: matter is neither made nor lost when slices are divided, moved, cut or added."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from phaseloom.errors import BadInput
from phaseloom.physics.slices import (
    centre_of_phase,
    crop_slices,
    equal_gaps,
    pad_slices,
    recentre_slices,
    resample_slices,
    shift_slices,
)

REFERENCE = Path(__file__).parents[1] / "data" / "ptyrad_reference.npz"

gap = st.floats(0.5, 30, allow_nan=False)
some_gaps = st.lists(gap, min_size=0, max_size=6)


def thing(slices, modes=2, shape=(3, 5), seed=0):
    """An absorbing object whose phases add up to less than pi."""
    source = torch.Generator().manual_seed(seed)
    phase = torch.rand(modes, slices, *shape, generator=source, dtype=torch.float64) - 0.2
    loss = torch.rand(modes, slices, *shape, generator=source, dtype=torch.float64)
    return torch.polar(0.7 + 0.3 * loss, phase * 3 / slices)


@given(some_gaps, some_gaps)
def test_resampling_keeps_the_sum_of_phase_and_the_product_of_amplitude(gaps, onto):
    before = thing(len(gaps) + 1)
    after = resample_slices(before, gaps, onto)
    assert after.shape == (2, len(onto) + 1, 3, 5)
    torch.testing.assert_close(after.angle().sum(1), before.angle().sum(1))
    torch.testing.assert_close(after.abs().prod(1), before.abs().prod(1))


@given(some_gaps)
def test_nothing_changes_when_gaps_stay(gaps):
    object = thing(len(gaps) + 1)
    torch.testing.assert_close(resample_slices(object, gaps, gaps), object)


@given(gap, st.integers(1, 5), st.integers(1, 4))
def test_equal_slices_divided_and_joined_again_are_the_same(gap, slices, parts):
    object, gaps = thing(slices + 1), (gap,) * slices
    fine = equal_gaps(gaps, slices=(slices + 1) * parts)
    torch.testing.assert_close(resample_slices(resample_slices(object, gaps, fine), fine, gaps), object)


def test_two_steps_are_one_where_borders_agree():
    object = thing(2)
    once = resample_slices(object, (12.0,), (2.0,) * 11)
    twice = resample_slices(resample_slices(object, (12.0,), (6.0,) * 3), (6.0,) * 3, (2.0,) * 11)
    torch.testing.assert_close(once, twice)


def test_a_thick_slice_gives_more_to_the_slices_it_covers():
    object = torch.polar(
        torch.ones(1, 3, 1, 1, dtype=torch.float64), torch.tensor([0.0, 0.9, 0.0]).double().view(1, 3, 1, 1)
    )
    after = resample_slices(object, (10.0, 10.0), (6.0, 6.0, 6.0, 6.0))
    torch.testing.assert_close(after.angle().flatten(), torch.tensor([0, 0.18, 0.54, 0.18, 0]).double())


def test_matter_outside_the_new_depth_goes_to_the_outermost_slices():
    object = thing(4)
    after = resample_slices(object, (5.0,) * 3, (2.0, 2.0))
    torch.testing.assert_close(after.angle().sum(1), object.angle().sum(1))
    assert (after.angle()[:, 1].abs() <= object.angle().abs().amax(1)).all()


def test_resampling_agrees_with_ptyrad():
    reference = np.load(REFERENCE)
    amplitude, phase = (torch.from_numpy(reference[f"fwd/in_{name}"]) for name in ("obja", "objp"))
    found = resample_slices(torch.polar(amplitude, phase), (4.0, 4.0), equal_gaps((4.0, 4.0), slices=6))
    np.testing.assert_allclose(found.numpy(), reference["misc/zresample_target6"], atol=1e-5)


@given(st.floats(-5, 5, allow_nan=False), st.floats(-5, 5, allow_nan=False), st.integers(1, 6))
def test_shifts_add_and_keep_the_power(a, b, slices):
    object = thing(slices)
    moved = shift_slices(object, a)
    torch.testing.assert_close(moved.abs().square().sum(), object.abs().square().sum())
    torch.testing.assert_close(shift_slices(moved, b), shift_slices(object, a + b))


@pytest.mark.parametrize("by", [-3, 0, 2])
def test_a_shift_by_whole_slices_rolls(by):
    object = thing(5)
    torch.testing.assert_close(shift_slices(object, float(by)), object.roll(by, 1))


@pytest.mark.parametrize("side", ["amplitude", "phase"])
def test_recentring_agrees_with_ptyrad(side):
    reference = {k: v for k, v in np.load(REFERENCE).items() if k.startswith("con/obj_z_recenter")}
    before, after = (
        torch.polar(
            *(torch.from_numpy(reference[f"con/obj_z_recenter/{when}/{name}"]) for name in ("obja", "objp"))
        )
        for when in ("in", "out")
    )
    found, shift = recentre_slices(before, percentile=80.0)
    part = torch.abs if side == "amplitude" else torch.angle
    assert shift.abs() > 1e-3
    torch.testing.assert_close(part(found), part(after), atol=2e-5, rtol=0)


def test_a_recentred_object_is_centred_and_vacuum_stays():
    empty = torch.ones(2, 5, 3, 3) + 0j
    assert centre_of_phase(empty.angle()).item() == 2
    assert recentre_slices(empty)[1].item() == 0
    object = empty.clone()
    object[:, 0] *= torch.exp(torch.tensor(0.4j))
    moved, shift = recentre_slices(object)
    assert shift.item() == pytest.approx(2)
    torch.testing.assert_close(moved, object.roll(2, 1))
    assert centre_of_phase(moved.angle(), percentile=80.0).item() == pytest.approx(2, abs=1e-4)
    assert recentre_slices(object, most=0.5)[1].item() == pytest.approx(0.5)
    assert recentre_slices(object, scale=0.25)[1].item() == pytest.approx(0.5)


def test_padding_and_cropping_undo_each_other():
    object = thing(3)
    for fill in ("vacuum", "mean", "edge", ("vacuum", "edge")):
        wider = pad_slices(object, 2, 1, fill=fill)
        assert torch.equal(crop_slices(wider, 2, -1), object)
        assert torch.equal(crop_slices(wider, 2, 5), object)
    assert torch.equal(pad_slices(object, 0, 0), object)


def test_what_is_padded_is_vacuum_mean_or_edge():
    object = thing(3)
    assert torch.equal(pad_slices(object, 1, 1)[:, [0, -1]], torch.ones(2, 2, 3, 5) + 0j)
    mean = pad_slices(object, 0, 2, fill="mean")[:, -1]
    torch.testing.assert_close(mean, torch.polar(object.abs().mean(1), object.angle().mean(1)))
    edge = pad_slices(object, 2, 1, fill="edge")
    assert torch.equal(edge[:, 0], object[:, 0])
    assert torch.equal(edge[:, -1], object[:, -1])


@pytest.mark.parametrize(
    "law",
    [
        lambda o: resample_slices(o, (3.0, 5.0), (2.0, 2.0, 4.0)),
        lambda o: shift_slices(o, 0.7),
        lambda o: recentre_slices(o, percentile=0.0)[0],
        lambda o: pad_slices(o, 1, 2, fill="mean"),
        lambda o: crop_slices(o, 1, None),
    ],
)
def test_gradients_are_those_of_finite_differences(law):
    object = thing(3, modes=1, shape=(2, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda o: torch.view_as_real(law(o)), object)


def test_gaps_keep_the_depth():
    assert equal_gaps((8.0, 8.0), slices=4) == (6.0, 6.0, 6.0)
    assert equal_gaps((8.0, 4.0), thickness=6.0) == (6.0, 6.0)
    assert equal_gaps((), slices=3, thickness=2.5) == (2.5, 2.5)
    assert equal_gaps((), slices=1) == ()
    assert equal_gaps((1.0, 2.0)) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda o: crop_slices(o, 3, None), "leaves none of 3 slices"),
        (lambda o: pad_slices(o, -1, 0), "is negative"),
        (lambda o: resample_slices(o, (1.0,), ()), "does not fit 3 slices"),
        (lambda o: resample_slices(o, (1.0, 0.0), (1.0,)), "must be positive"),
        (lambda o: equal_gaps((), slices=3), "single slice"),
        (lambda o: equal_gaps((1.0,), slices=0), "positive"),
        (lambda o: centre_of_phase(o.angle(), percentile=120.0), "between 0 and 100"),
    ],
)
def test_bad_input_is_a_sentence(call, words):
    with pytest.raises(BadInput, match=words):
        call(thing(3))
