"""Simulated scans: what moves with the specimen, what is lost, what noise does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import crop_as_seed, resample_to_steps
from phaseloom.simulation.experiment import (
    Experiment,
    collect_on_detector,
    compute_vacuum_pattern,
    encode_conditions,
)
from phaseloom.simulation.scan import simulate_scan
from phaseloom.simulation.specimens import Specimen

SMALL = Experiment(scan=(4, 5), vibration=0.08)


def specimen(experiment, places=((1.0, 0.0, 0.0), (2.0, 3.1, -1.7)), numbers=(38, 22), thickness=4.0):
    """Atoms at places (z, y, x) relative to the middle of the box."""
    middle = np.array([0.0, experiment.box[0] / 2, experiment.box[1] / 2])
    return Specimen(
        numbers=np.array(numbers),
        places=np.array(places) + middle,
        size=(thickness, *experiment.box),
        family="test",
        name="few",
    )


def moved(thing, y, x):
    return replace(thing, places=thing.places + np.array([0.0, y, x]))


def test_a_single_atom_can_be_looked_at_in_one_slice_and_in_several():
    one = specimen(SMALL, places=[(1.0, 0.3, 0.2)], numbers=(79,))
    for experiment in (SMALL, replace(SMALL, slice_thickness=1.0), replace(SMALL, phonons=2)):
        assert np.isfinite(simulate_scan(one, experiment).patterns).all()


def test_a_specimen_moved_by_a_step_moves_scan_and_phase_by_one():
    before = simulate_scan(specimen(SMALL), SMALL)
    after = simulate_scan(moved(specimen(SMALL), 0.0, 2.0), SMALL)
    np.testing.assert_allclose(after.patterns[:, 1:], before.patterns[:, :-1], atol=2e-7)
    np.testing.assert_allclose(after.phase[:, 5:], before.phase[:, :-5], atol=1e-4)


def test_the_phase_is_high_where_the_atom_stands():
    """Rows are y, columns x; the first probe stands at pixel (5, 5)."""
    one = specimen(SMALL, places=[(1.0, 2.0, -2.4)], numbers=(79,))
    sample = simulate_scan(one, SMALL)
    from_first = one.places[0, 1:] - SMALL.margin * SMALL.spacing
    row, column = np.unravel_index(sample.phase.argmax(), sample.phase.shape)
    np.testing.assert_allclose([row, column], from_first / SMALL.spacing, atol=0.51)
    assert sample.phase.min() > -0.1 * sample.phase.max() > -np.inf


def test_a_pattern_holds_no_more_than_the_beam_and_without_matter_all_of_it():
    assert compute_vacuum_pattern(SMALL).sum().item() == pytest.approx(1.0, abs=1e-3)
    sums = simulate_scan(specimen(SMALL), SMALL).patterns.sum((2, 3))
    assert sums.max() < 1 + 1e-3  # a phase object in a band is not quite one
    assert sums.min() > 0.9


def test_a_binned_pixel_collects_what_falls_on_it():
    fine = torch.rand(1, 64, 64)
    whole = collect_on_detector(fine, replace(SMALL, detector=None))
    assert whole.shape == (1, 32, 32)
    torch.testing.assert_close(collect_on_detector(fine, SMALL), whole[:, 4:28, 4:28])
    spot = torch.zeros(1, 64, 64)
    spot[0, 0, 0] = 1.0
    assert collect_on_detector(spot, SMALL)[0, 12, 12].item() == 1.0


def test_incoherence_spreads_and_keeps_the_power():
    sharp, soft = (
        compute_vacuum_pattern(replace(SMALL, focal_spread=s, source_size=s / 60)) for s in (0.0, 30.0)
    )
    assert soft.sum().item() == pytest.approx(sharp.sum().item(), abs=2e-3)
    clear = simulate_scan(specimen(SMALL), SMALL).patterns - sharp.numpy()
    blurred = simulate_scan(specimen(SMALL), replace(SMALL, source_size=1.0)).patterns - sharp.numpy()
    assert np.linalg.norm(blurred) < 0.9 * np.linalg.norm(clear)


def test_thermal_motion_averages_to_a_smaller_signal_and_diffuse_light():
    heavy = specimen(SMALL, places=[(1.0, 0.1, 0.1)], numbers=(79,))
    still = simulate_scan(heavy, replace(SMALL, phonons=1, vibration=0.0)).patterns
    hot = simulate_scan(heavy, replace(SMALL, phonons=30, vibration=0.25)).patterns
    empty = compute_vacuum_pattern(SMALL).numpy()
    near = still - empty
    assert (near * (hot - empty)).sum() < 0.95 * (near**2).sum()


def test_counts_of_a_dose_have_its_noise_and_are_drawn_by_their_seed():
    sample = simulate_scan(specimen(SMALL), SMALL)
    loud = replace(SMALL, dose=200.0)
    one, same, other = (simulate_scan(specimen(SMALL), loud, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(one.patterns, same.patterns)
    assert not np.array_equal(one.patterns, other.patterns)
    counts = one.patterns * 200
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    excess = ((counts - 200 * sample.patterns) ** 2).sum() / (200 * sample.patterns).sum()
    assert 0.7 < excess < 1.3


def test_a_scan_knows_where_nothing_was_simulated():
    sample = simulate_scan(specimen(SMALL), replace(SMALL, detector=None))
    scan = sample.scan()
    assert scan.mask[16, 16]
    assert not scan.mask[0, 0]
    assert sample.patterns[:, :, ~scan.mask].sum() < 0.02 * sample.patterns.sum()
    assert scan.grid == (4, 5)


def test_equal_numbers_without_a_unit_give_equal_patterns():
    """All lengths by two, the angle and so the phase by what keeps both: a scaled world."""
    here = Experiment(scan=(3, 3))
    there = replace(here, energy=here.energy, semiangle=0.010, step=4.0, aberrations={"defocus": 360.0})
    np.testing.assert_allclose(encode_conditions(there), encode_conditions(here), rtol=1e-6)
    torch.testing.assert_close(compute_vacuum_pattern(there), compute_vacuum_pattern(here), atol=1e-6, rtol=0)


def test_the_truth_of_a_cell_is_read_between_its_pixels():
    cell = Experiment(scan=(50, 50), pixel=100 / 256, cell=256, window=64)
    y, x = np.mgrid[:256, :256] * (2 * np.pi / 256)
    phase = torch.from_numpy(np.cos(3 * y - 2 * x) + np.sin(7 * x))
    exact = resample_to_steps(phase, cell)
    place = (np.arange(256) - 5) * 0.4 / 100 * 2 * np.pi
    want = np.cos(3 * place[:, None] - 2 * place) + np.sin(7 * place)
    np.testing.assert_allclose(exact.numpy(), want, atol=1e-5)
    rounded = crop_as_seed(phase, 9, 18)
    off = np.abs(rounded.numpy() - exact.numpy()[45:121, 90:166]).max()
    assert 0.01 < off < 0.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"semiangle": 0.04}, "is beyond the"),
        ({"scan": (1, 4)}, "2 by 2 probes"),
        ({"dose": 0.0}, "electrons per pattern"),
        ({"detector": 40}, "must lie between 2 and the 32"),
        ({"bin": 3}, "must divide the window"),
        ({"jitter": 1.5}, "half a step"),
        ({"step": 0.0}, "must be above zero"),
    ],
)
def test_what_no_experiment_has_is_refused(changed, said):
    with pytest.raises(BadInput, match=said):
        replace(SMALL, **changed)


def test_a_specimen_of_another_size_is_refused():
    with pytest.raises(BadInput, match="must be the box of the experiment"):
        simulate_scan(specimen(SMALL), replace(SMALL, scan=(6, 6)))
