"""Views of simulated scans: cut where they should be, turned as the specimen would be, counted fairly."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.retrieval.training_samples import (
    NOISELESS_DOSE,
    TrainingScan,
    ViewDistribution,
    ViewSelection,
    cut_views,
    draw_views,
)
from phaseloom.simulation.experiment import Experiment, encode_conditions
from phaseloom.simulation.scan import simulate_scan
from phaseloom.simulation.specimens import Specimen

SCAN = (6, 7)


def numbered(seed: int, step: float = 2.0) -> TrainingScan:
    """A scene all of whose values differ."""
    generator = torch.Generator().manual_seed(seed)
    roots = torch.rand(*SCAN, 5, 5, generator=generator).half() / 10
    phase = torch.rand(36, 41, generator=generator)
    return TrainingScan(roots, phase, Experiment(scan=SCAN, step=step), f"group {seed}")


def one(corner: tuple[int, int], turn: int = 0, dose: float = NOISELESS_DOSE, window=(3, 4)) -> ViewSelection:
    return ViewSelection(
        scenes=np.array([1]),
        corners=np.array([corner]),
        turns=np.array([turn]),
        doses=np.array([dose]),
        seeds=np.array([7]),
        window=window,
    )


@pytest.mark.parametrize("corner", [(0, 0), (3, 3), (1, 2), (0, 3)])
def test_a_window_is_cut_with_the_phase_under_it(corner):
    scenes, (row, col) = [numbered(0), numbered(1, step=1.6)], corner
    seen = cut_views(scenes, one(corner))
    wanted = scenes[1].roots[row : row + 3, col : col + 4].float().square()
    assert torch.equal(seen.patterns[0], wanted)
    assert torch.equal(seen.phase[0], scenes[1].phase[5 * row : 5 * row + 21, 5 * col : 5 * col + 26])
    np.testing.assert_allclose(seen.coordinates[0], [1.6 * row, 1.6 * col], rtol=1e-6)
    np.testing.assert_array_equal(seen.optics[0], encode_conditions(scenes[1].experiment, NOISELESS_DOSE))
    assert seen.experiments == (scenes[1].experiment,)


def random_specimen(experiment: Experiment) -> Specimen:
    rng = np.random.default_rng(4)
    places = rng.uniform(0, 1, (60, 3)) * (4.0, *experiment.box)
    return Specimen(rng.choice([6, 22, 40], 60), places, (4.0, *experiment.box))


def mirrored(specimen: Specimen, experiment: Experiment, turn: int) -> tuple[Specimen, Experiment]:
    """What lies under the microscope when the view is turned: flips are about the middle of the image."""
    places = specimen.places.copy()
    for bit, axis in ((1, 0), (2, 1)):
        if turn & bit:
            last = (experiment.image[axis] - 1 + 2 * experiment.margin) * experiment.spacing
            places[:, 1 + axis] = last - places[:, 1 + axis]
    if turn & 4:
        places = places[:, [0, 2, 1]]
        experiment = replace(experiment, scan=experiment.scan[::-1])
    return Specimen(specimen.numbers, places, (4.0, *experiment.box)), experiment


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize(("window", "bin", "detector"), [(33, 1, 25), (64, 2, 24)])
def test_a_turned_view_is_that_of_the_turned_specimen(turn, window, bin, detector):
    experiment = Experiment(scan=(4, 5), window=window, bin=bin, detector=detector)
    specimen = random_specimen(experiment)
    scene = TrainingScan.of(simulate_scan(specimen, experiment))
    seen = cut_views([scene, scene], one((0, 0), turn, window=(4, 5)))
    true = simulate_scan(*mirrored(specimen, experiment, turn))
    inner = slice(1 - detector % 2, None)  # the first row of an even number has no partner
    found, wanted = seen.patterns[0][..., inner, inner], torch.from_numpy(true.patterns)[..., inner, inner]
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 2e-3 * wanted.max()  # stored in half precision
    assert (seen.phase[0] - torch.from_numpy(true.phase)).abs().max() < 1e-4
    if 0 < turn < 4:
        as_it_was = scene.roots.float().square()[..., inner, inner]
        assert (found - as_it_was).abs().max() > 0.05 * wanted.max()


def test_counts_have_mean_and_variance_of_their_dose():
    roots = torch.full((4, 4, 30, 30), 0.03).half()
    scene = TrainingScan(roots, torch.zeros(26, 26), Experiment(scan=(4, 4)), "")
    fraction, dose = float(roots[0, 0, 0, 0].float() ** 2), 2e4
    seen = cut_views([scene, scene], one((0, 0), dose=dose, window=(4, 4))).patterns
    assert float(seen.mean()) == pytest.approx(fraction, rel=0.01)
    assert float(seen.var()) == pytest.approx(fraction / dose, rel=0.05)
    assert (seen * dose - (seen * dose).round()).abs().max() < 1e-3


def test_a_view_without_noise_holds_the_fractions_and_is_told_so():
    scenes = [numbered(0), numbered(1)]
    clean, noisy = (cut_views(scenes, one((1, 1), dose=dose)) for dose in (NOISELESS_DOSE, 1e4))
    assert clean.optics[0, -1] == 1.0
    assert noisy.optics[0, -1] == 0.0
    assert torch.equal(clean.phase, noisy.phase)
    assert not torch.equal(clean.patterns, noisy.patterns)


def test_the_same_draw_gives_the_same_bits():
    scenes, choice = [numbered(0), numbered(1)], ViewDistribution(window=(3, 4), clean=0.5)
    first, again, other = (
        draw_views(6, [0, 1], SCAN, choice, seed=seed) for seed in ((3, 1), (3, 1), (3, 2))
    )
    a, b, c = (cut_views(scenes, these) for these in (first, again, other))
    assert torch.equal(a.patterns, b.patterns)
    assert torch.equal(a.phase, b.phase)
    assert not torch.equal(a.phase, c.phase)


def test_pieces_hold_the_same_views_in_the_same_order():
    scenes, choice = [numbered(0), numbered(1)], ViewDistribution(window=(4, 4), clean=1.0)
    whole = draw_views(7, [0, 1], SCAN, choice, seed=(1,))
    pieces = whole.split(3)
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    parts = [cut_views(scenes, piece) for piece in pieces]
    seen = cut_views(scenes, whole)
    for name in ("patterns", "optics", "coordinates", "phase"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(seen, name))


def test_pieces_do_not_share_their_noise():
    flat = TrainingScan(
        torch.full((4, 4, 6, 6), 0.1).half(), torch.zeros(26, 26), Experiment(scan=(4, 4)), ""
    )
    whole = draw_views(4, [0], (4, 4), ViewDistribution(window=(4, 4), clean=0.0), seed=(1,))
    same = replace(whole, doses=np.full(4, 1e4))
    seen = [cut_views([flat], piece).patterns for piece in same.split(1)]
    assert all(not torch.equal(seen[0], other) for other in seen[1:])


def test_draws_keep_to_the_scan_and_reach_all_of_it():
    drawn = draw_views(
        2000, [3, 5, 9], (6, 7), ViewDistribution(window=(4, 4), doses=(1e3, 1e5), clean=0.25), seed=(2,)
    )
    assert set(map(tuple, drawn.corners)) == {(row, col) for row in range(3) for col in range(4)}
    assert set(drawn.scenes) == {3, 5, 9}
    assert set(drawn.turns) == set(range(8))
    clean = drawn.doses == NOISELESS_DOSE
    assert clean.mean() == pytest.approx(0.25, abs=0.04)
    noisy = np.log10(drawn.doses[~clean])
    assert (noisy.min() >= 3) & (noisy.max() <= 5)
    assert noisy.mean() == pytest.approx(4.0, abs=0.06)


def test_a_window_that_is_no_square_is_never_transposed_and_may_stay_unturned():
    assert set(draw_views(200, [0], SCAN, ViewDistribution(window=(3, 4)), seed=(0,)).turns) == {0, 1, 2, 3}
    assert set(
        draw_views(200, [0], SCAN, ViewDistribution(window=(3, 3), turned=False), seed=(0,)).turns
    ) == {0}


@pytest.mark.parametrize("window", [(7, 3), (3, 8)])
def test_a_window_larger_than_the_scan_is_refused(window):
    with pytest.raises(BadInput, match="smaller than a window of"):
        draw_views(2, [0], SCAN, ViewDistribution(window=window), seed=(0,))


def test_half_precision_keeps_a_sample_to_a_thousandth():
    experiment = Experiment(scan=(3, 3), window=32, bin=1)
    sample = simulate_scan(random_specimen(experiment), experiment)
    scene = TrainingScan.of(sample)
    error = scene.roots.float().square().numpy() - sample.patterns
    assert np.abs(error).max() < 1.5e-3 * sample.patterns.max()
    assert scene.group == sample.group
