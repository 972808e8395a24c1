"""The linear estimate: what it is made of, what it owns, and that it sees atoms bright and where they are."""

import numpy as np
import pytest
import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.retrieval.networks.linear import (
    NOISELESS_DOSE_NUMBER,
    LinearRecovery,
    PatternFeatures,
    compute_centres_of_mass,
    integrate_slopes,
    linear,
    tokens_to_image,
)
from phaseloom.simulation import specimens
from phaseloom.simulation.experiment import Experiment, encode_conditions
from phaseloom.simulation.scan import Sample, simulate_scan
from phaseloom.simulation.specimens import Specimen

EXPERIMENT = Experiment(scan=(10, 10))


def random_patterns(*shape: int, seed: int = 0) -> Tensor:
    """Fractions of a beam, most of it on the detector."""
    patterns = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return 0.9 * patterns / patterns.sum((-2, -1), keepdim=True)


def random_net(
    patterns: int, components: int, doses: tuple[float, ...] = (NOISELESS_DOSE_NUMBER,)
) -> LinearRecovery:
    net = linear(patterns=patterns, components=components, doses=doses)
    net.components.calibrate(random_patterns(40, patterns, patterns, seed=1))
    net.weight.data = torch.randn(net.weight.shape, generator=torch.Generator().manual_seed(2))
    return net


def alike(one: np.ndarray, other: np.ndarray, rim: int = 8) -> float:
    inner = (slice(rim, -rim), slice(rim, -rim))
    return float(np.corrcoef(one[inner].ravel(), other[inner].ravel())[0, 1])


@pytest.mark.parametrize("shape", [(6, 6), (7, 7), (5, 8)])
def test_a_centre_of_mass_is_counted_from_zero_frequency(shape):
    patterns = random_patterns(2, 3, 4, *shape)
    y, x = (np.arange(n) - n // 2 for n in shape)
    shares = (patterns / patterns.sum((-2, -1), keepdim=True)).numpy()
    wanted = np.stack([(shares * y[:, None]).sum((-2, -1)), (shares * x).sum((-2, -1))], 1)
    np.testing.assert_allclose(compute_centres_of_mass(patterns), wanted, atol=1e-5)


def test_a_dark_pattern_has_its_centre_in_the_middle():
    assert compute_centres_of_mass(torch.zeros(1, 2, 2, 5, 5)).abs().max() == 0


@pytest.mark.parametrize(("rows", "columns", "waves"), [(9, 12, (1, 2)), (10, 7, (2, 0)), (8, 8, (0, 3))])
def test_the_slopes_of_a_mirror_symmetric_map_integrate_to_it(rows, columns, waves):
    y, x = ((torch.arange(n) + 0.5) * torch.pi * k / n for n, k in zip((rows, columns), waves, strict=True))
    y, x = y[:, None], x[None]
    true = y.cos() * x.cos()
    slope = torch.stack([-waves[0] / rows * y.sin() * x.cos(), -waves[1] / columns * y.cos() * x.sin()])
    found = integrate_slopes(torch.pi * slope[None], (0.0, 1.5))[0]
    torch.testing.assert_close(found[0], true, atol=1e-5, rtol=0)
    square = (waves[0] / (2 * rows)) ** 2 + (waves[1] / (2 * columns)) ** 2
    torch.testing.assert_close(found[1], true * np.exp(-2 * (np.pi * 1.5) ** 2 * square), atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_slope_along_an_axis_rises_along_that_axis(axis):
    slope = torch.zeros(1, 2, 8, 6)
    slope[:, axis] = 1.0
    found = integrate_slopes(slope, (0.0,))[0, 0]
    assert found.diff(dim=axis)[1:-1].mean() > 0.8
    assert found.diff(dim=1 - axis).abs().max() < 1e-4


def test_components_are_orthonormal_and_the_first_tells_most():
    each = PatternFeatures(6, 5)
    shapes = torch.randn(3, 36, generator=torch.Generator().manual_seed(3))
    amounts = torch.randn(60, 3, generator=torch.Generator().manual_seed(4)) * torch.tensor([0.3, 0.1, 0.03])
    patterns = (1 + amounts @ shapes / 6).clamp_min(0.1).square().reshape(1, 6, 10, 6, 6)
    patterns = 0.9 * patterns / patterns.sum((-2, -1), keepdim=True)
    each.calibrate(patterns)
    torch.testing.assert_close(each.basis @ each.basis.T, torch.eye(5), atol=1e-5, rtol=0)
    seen = each(patterns)[:, :5].flatten(2)[0]
    power = seen.square().mean(1)
    assert (power.diff() < 0).all()
    assert power[0] > 3 * power[1] > 0
    assert seen.mean(1).abs().max() < 1e-4 * power[0].sqrt()


def test_components_are_no_more_than_the_pixels():
    with pytest.raises(BadInput, match="1 to the 16 pixels of a pattern"):
        linear(patterns=4, components=17)


def test_a_relation_that_is_linear_is_found_exactly():
    patterns, optics = random_patterns(1, 14, 13, 4, 4), torch.ones(1, 8)
    true = random_net(4, 3)
    net = linear(patterns=4, components=3, doses=(NOISELESS_DOSE_NUMBER,))
    net.components.load_state_dict(true.components.state_dict())
    with torch.no_grad():
        phase = true(patterns, optics)
        net.solve(0, [(patterns, phase)], ridge=1e-12)
        error = (net(patterns, optics) - phase)[:, 8:-8, 8:-8]
    assert error.std() < 5e-3 * phase.std()


def test_the_constant_of_a_phase_changes_nothing():
    patterns, phase = random_patterns(2, 14, 13, 4, 4), torch.randn(2, 76, 71)
    nets = [random_net(4, 2), random_net(4, 2)]
    nets[0].solve(0, [(patterns, phase)], ridge=1e-2)
    nets[1].solve(0, [(patterns, phase + torch.tensor([3.0, -2.0])[:, None, None])], ridge=1e-2)
    torch.testing.assert_close(nets[0].weight, nets[1].weight, atol=1e-3, rtol=1e-3)


def test_errors_count_in_units_of_a_scan_s_own_contrast():
    patterns, phase = random_patterns(1, 14, 14, 4, 4), torch.randn(2, 1, 76, 76)
    light, both = random_net(4, 2), random_net(4, 2)
    light.solve(0, [(patterns, phase[0])], ridge=1e-2)
    both.solve(0, [(patterns, phase[0]), (patterns, 100 * phase[1])], ridge=1e-2)
    off, there = both.weight - light.weight, light.weight
    assert off.norm() < 0.1 * there.norm()  # 50 times as large, were all radians the same


def test_nothing_to_learn_from_is_said():
    with pytest.raises(BadInput, match="cannot be fitted without a scan"):
        random_net(4, 2).solve(0, [])


def test_between_doses_the_estimate_is_interpolated_and_beyond_them_held():
    net = random_net(4, 2, (-0.25, 0.5, 1.0))
    patterns = random_patterns(1, 4, 5, 4, 4)

    def at(dose: float) -> Tensor:
        optics = torch.zeros(1, 8)
        optics[:, -1] = dose
        return net(patterns, optics)[0]

    torch.testing.assert_close(at(0.125), (at(-0.25) + at(0.5)) / 2)
    torch.testing.assert_close(at(0.6), 0.8 * at(0.5) + 0.2 * at(1.0))
    torch.testing.assert_close(at(-3.0), at(-0.25))
    torch.testing.assert_close(at(7.0), at(1.0))
    assert (at(0.5) - at(1.0)).abs().max() > 0.1


def test_scans_of_a_batch_have_a_dose_each():
    net, patterns = random_net(4, 2, (0.0, 1.0)), random_patterns(3, 4, 5, 4, 4)
    optics = torch.zeros(3, 8)
    optics[:, -1] = torch.tensor([1.0, 0.3, 0.0])
    alone = torch.cat([net(patterns[n : n + 1], optics[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(net(patterns, optics), alone)


def test_a_token_owns_the_five_by_five_pixels_around_its_probe():
    for row, column in ((0, 0), (2, 5), (1, 3)):
        tokens = torch.zeros(1, 25, 3 + 2, 6 + 2)
        tokens[0, :, row + 1, column + 1] = torch.arange(1.0, 26.0)
        image = tokens_to_image(tokens)[0]
        assert image.shape == (21, 36)
        y, x = 5 + 5 * row, 5 + 5 * column
        assert image[y - 2 : y + 3, x - 2 : x + 3].flatten().tolist() == list(range(1, 26))
        assert image.count_nonzero() == 25


def test_patterns_one_probe_on_move_what_is_local_by_five_pixels():
    net, patterns = random_net(5, 2), random_patterns(1, 8, 7, 5, 5)
    net.weight.data[..., 1 + 9 * 2 :] = 0.0  # integrals see the whole scan
    optics = torch.ones(1, 8)
    image, down, along = (net(one, optics)[0] for one in (patterns, patterns.roll(1, 1), patterns.roll(1, 2)))
    torch.testing.assert_close(down[18:-13, 13:-13], image[13:-18, 13:-13])
    torch.testing.assert_close(along[13:-13, 18:-13], image[13:-13, 13:-18])
    assert (down - image)[18:-13, 13:-13].abs().max() > 0.1


@pytest.fixture(scope="module")
def fitted() -> LinearRecovery:
    net, samples = linear(components=40, doses=(NOISELESS_DOSE_NUMBER,)), []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        specimen = specimens.prototypes(EXPERIMENT.box, rng, thickness=(4.0, 8.0))
        samples.append(simulate_scan(specimen, EXPERIMENT))
    patterns = torch.from_numpy(np.stack([sample.patterns for sample in samples]))
    net.components.calibrate(patterns)
    net.solve(0, [(patterns, torch.from_numpy(np.stack([s.phase for s in samples])))], ridge=1e-2)
    return net


def few_atoms() -> tuple[Sample, np.ndarray]:
    """Six light atoms at whole pixels ``(y, x)`` of the image, of no symmetry."""
    pixels = np.array([[15, 12], [15, 36], [21, 24], [33, 13], [36, 40], [43, 27]])
    places = np.concatenate([np.full((6, 1), 1.0), (pixels + EXPERIMENT.margin) * EXPERIMENT.spacing], 1)
    specimen = Specimen(np.full(6, 14), places, (2.0, *EXPERIMENT.box))
    return simulate_scan(specimen, EXPERIMENT), pixels


def test_atoms_are_seen_bright_and_where_they_are(fitted):
    sample, pixels = few_atoms()
    optics = torch.from_numpy(encode_conditions(EXPERIMENT))[None]
    with torch.no_grad():
        image = fitted(torch.from_numpy(sample.patterns)[None], optics)[0].numpy()
    image = image - np.median(image)
    tops = np.array([image[y - 1 : y + 2, x - 1 : x + 2].mean() for y, x in pixels])
    truth = np.array([sample.phase[y - 1 : y + 2, x - 1 : x + 2].mean() for y, x in pixels])
    assert (tops > 0.4 * truth).all()
    assert (truth > 0.05).all()
    assert alike(image, sample.phase) > 0.7
    for turned in (image.T, image[::-1], image[:, ::-1], image[::-1, ::-1], -image):
        assert alike(turned, sample.phase) < 0.4


def test_a_file_keeps_every_bit(fitted, tmp_path):
    again = pretrained.load_network(pretrained.save_network(fitted, tmp_path / "net.safetensors"))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fitted.state_dict().items())
    assert again.recipe == fitted.recipe
