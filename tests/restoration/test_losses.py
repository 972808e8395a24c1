"""Losses of restored images as their formulas say, beside other programs, finite wherever images may be."""

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.restoration import losses as restoration_losses
from phaseloom.restoration.losses import (
    RestoredBatch,
    charbonnier,
    gradient,
    perceptual,
    perceptual_random,
    poisson,
    similarity,
)
from phaseloom.restoration.networks import vgg
from phaseloom.spec import call, names

ROOM = "phaseloom.restoration.losses"
PLAIN = (charbonnier, gradient, similarity, perceptual_random)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Numbers from zero to one, smooth enough to be alike on several scales."""
    noise = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return (noise.cumsum(-1).sin() + noise.cumsum(-2).cos() + 2) / 4


@pytest.fixture(autouse=True)
def _says_again():
    restoration_losses._warn_once.cache_clear()


def test_charbonnier_is_the_root_of_squares_with_the_guides_epsilon():
    image, target = drawn(2, 3, 5, 7), drawn(2, 3, 5, 7, seed=1)
    wanted = np.sqrt((image.double().numpy() - target.double().numpy()) ** 2 + 1e-3**2).mean()
    assert charbonnier(RestoredBatch(image, target)).item() == pytest.approx(wanted, rel=1e-6)
    assert charbonnier(RestoredBatch(image, image), eps=0.5).item() == pytest.approx(0.5)


def test_gradient_is_the_laplacian_that_a_loop_finds():
    image, target = drawn(2, 2, 5, 6), drawn(2, 2, 5, 6, seed=1)
    error = (image - target).double().numpy()
    total, count = 0.0, 0
    for n, c in np.ndindex(2, 2):
        for y in range(1, 4):
            for x in range(1, 5):
                e = error[n, c]
                around = e[y - 1, x] + e[y + 1, x] + e[y, x - 1] + e[y, x + 1]
                total, count = total + abs(around - 4 * e[y, x]), count + 1
    assert gradient(RestoredBatch(image, target)).item() == pytest.approx(total / count, rel=1e-5)


def test_a_plane_has_no_gradient_loss():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    plane = (0.1 * y - 0.3 * x)[None, None]
    assert gradient(RestoredBatch(plane, 0 * plane)).item() == pytest.approx(0, abs=1e-6)


def halved(image: np.ndarray) -> np.ndarray:
    """Means of two by two pixels; a last row or column of an odd number is by itself."""
    return np.add.reduceat(
        np.add.reduceat(image, range(0, image.shape[0], 2), 0), range(0, image.shape[1], 2), 1
    ) / (
        np.add.reduceat(
            np.add.reduceat(np.ones_like(image), range(0, image.shape[0], 2), 0),
            range(0, image.shape[1], 2),
            1,
        )
    )


def skimages(image: np.ndarray, target: np.ndarray, scales: int, reach: float) -> float:
    """The multi-scale similarity of scikit-image's, whose brightness is switched off by a huge constant."""
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    weights, out = weights[:scales] * weights.sum() / weights[:scales].sum(), 1.0
    for number, weight in enumerate(weights):
        knobs = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
        dark = 0.01 if number == scales - 1 else 1e9
        found = structural_similarity(image, target, data_range=reach, K1=dark, **knobs)[1]
        out *= found[5:-5, 5:-5].mean() ** weight
        image, target = halved(image), halved(target)
    return out


@pytest.mark.parametrize(
    ("sides", "scales"),
    [
        ((11, 30), 1),
        ((16, 16), 1),
        ((32, 40), 2),
        ((64, 67), 3),
        ((83, 81), 4),
        ((160, 160), 4),
        ((161, 176), 5),
    ],
)
def test_similarity_is_scikit_images_on_as_many_scales_as_fit(sides, scales, caplog):
    image, target = drawn(2, 2, *sides) * 5 - 1, drawn(2, 2, *sides, seed=1) * 5 - 1
    target = 0.6 * image + 0.4 * target
    pairs = [(image[n, c].double().numpy(), target[n, c].double().numpy()) for n, c in np.ndindex(2, 2)]
    wanted = np.mean([skimages(*pair, scales, 5.0) for pair in pairs])
    found = similarity(RestoredBatch(image, target, data_range=5.0)).item()
    assert found == pytest.approx(1 - wanted, abs=2e-6)
    assert found > 0.005
    told = f"images of {min(sides)} pixels take {scales} of 5 scales"
    assert (told in caplog.text) == (scales < 5)


@pytest.mark.parametrize(("side", "window"), [(1, 1), (2, 1), (5, 5), (10, 9)])
def test_images_smaller_than_a_window_are_compared_with_a_smaller_one_and_it_is_said(side, window, caplog):
    image, target = drawn(1, 1, side, 12), drawn(1, 1, side, 12, seed=1)
    assert 0 < similarity(RestoredBatch(image, target)).item() < 1.5
    similarity(RestoredBatch(image, target))
    assert caplog.text.count(f"images of {side} pixels take one scale and a window of {window}") == 1


@pytest.mark.parametrize("side", [11, 16, 32, 64, 160, 161])
def test_similarity_is_zero_for_equal_images_and_falls_as_they_part(side):
    image, noise = drawn(1, 1, side, side + 3), drawn(1, 1, side, side + 3, seed=2) - 0.5
    found = [similarity(RestoredBatch(image + part * noise, image)).item() for part in (0, 0.1, 0.3, 1.0)]
    assert found[0] == 0
    assert found == sorted(found)
    assert found[3] > 10 * found[1]


def test_similarity_of_opposite_images_is_bounded_and_still_has_a_gradient():
    target = drawn(1, 1, 64, 64)
    image = (1 - target).requires_grad_()
    loss = similarity(RestoredBatch(image, target))
    loss.backward()
    assert 0.9 < loss.item() <= 1
    assert torch.isfinite(image.grad).all()
    with torch.no_grad():
        better = similarity(RestoredBatch(image - 1e3 * image.grad, target))
    assert 0 < image.grad.abs().max() < 1
    assert better < loss


def test_similarity_survives_images_far_from_zero():
    image, target = drawn(1, 1, 40, 40), drawn(1, 1, 40, 40, seed=1)
    wanted = similarity(RestoredBatch(image.double() + 1000, target.double() + 1000)).item()
    assert similarity(RestoredBatch(image + 1000, target + 1000)).item() == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("loss", PLAIN)
def test_range_and_unit_of_images_change_nothing(loss):
    image, target = drawn(1, 1, 24, 20), drawn(1, 1, 24, 20, seed=1)
    wanted = loss(RestoredBatch(image, target)).item()
    assert loss(RestoredBatch(40 * image, 40 * target, data_range=40.0)).item() == pytest.approx(
        wanted, rel=1e-4
    )


@pytest.mark.parametrize("loss", PLAIN)
def test_a_loss_is_the_mean_over_the_batch_times_its_weight(loss):
    image, target = drawn(3, 3, 24, 20), drawn(3, 3, 24, 20, seed=1)
    each = [loss(RestoredBatch(image[n : n + 1], target[n : n + 1])).item() for n in range(3)]
    assert loss(RestoredBatch(image, target), weight=2.0).item() == pytest.approx(2 * np.mean(each), rel=1e-4)


@pytest.mark.parametrize("loss", PLAIN)
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-4, 1.0, 1e4])
def test_gradients_are_finite_at_no_error_and_at_any(loss, size):
    target = drawn(1, 1, 24, 20)
    image = (target + size * (drawn(1, 1, 24, 20, seed=1) - 0.5)).requires_grad_()
    loss(RestoredBatch(image, target)).backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("loss", PLAIN)
def test_half_precision_and_autocast_cost_nothing_but_the_images_own_rounding(loss):
    image, target = drawn(1, 3, 24, 20).bfloat16(), drawn(1, 3, 24, 20, seed=1)
    wanted = loss(RestoredBatch(image.float(), target))
    image.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(RestoredBatch(image, target))
    found.backward()
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
    assert torch.isfinite(image.grad).all()


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels_is_taken(channels):
    image, target = drawn(2, channels, 12, 17), drawn(2, channels, 12, 17, seed=1)
    single = [RestoredBatch(image[:, c : c + 1], target[:, c : c + 1]) for c in range(channels)]
    for loss in (charbonnier, gradient, similarity):
        wanted = np.mean([loss(one).item() for one in single])
        assert loss(RestoredBatch(image, target)).item() == pytest.approx(wanted, rel=1e-4)


def test_perceptual_is_off_without_a_file_and_says_so_once(caplog):
    batch = RestoredBatch(drawn(1, 1, 16, 16), drawn(1, 1, 16, 16, seed=1))
    assert perceptual(batch) is None
    assert list(batch.terms({"perceptual": perceptual, "charbonnier": charbonnier})) == ["charbonnier"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "perceptual is off: give it a file" in caplog.text


def test_perceptual_is_the_mean_difference_of_features_of_grey_images_as_three(tmp_path):
    net = vgg.random_vgg(seed=9)
    save_file(net.state_dict(), tmp_path / "vgg.safetensors")
    image, target = drawn(1, 1, 32, 20).requires_grad_(), drawn(1, 1, 32, 20, seed=1)
    found = perceptual(RestoredBatch(image, target, data_range=2.0), file=tmp_path / "vgg.safetensors")
    with torch.no_grad():
        wanted = (net(image.repeat(1, 3, 1, 1) / 2) - net(target.repeat(1, 3, 1, 1) / 2)).abs().mean()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.backward()
    assert image.grad.any()


def test_perceptual_of_a_file_is_that_of_its_weights_and_not_of_others():
    batch = RestoredBatch(drawn(1, 3, 16, 16), drawn(1, 3, 16, 16, seed=1))
    first, again, other = (perceptual_random(batch, seed=seed).item() for seed in (0, 0, 1))
    assert first == again != other
    assert first > 0
    with pytest.raises(BadInput, match=r"none.pth does not exist"):
        perceptual(batch, file=Path("none.pth"))


def test_perceptual_refuses_channels_that_are_no_colours():
    with pytest.raises(BadInput, match="2 channels are not one or three: leave it out"):
        perceptual_random(RestoredBatch(drawn(1, 2, 16, 16), drawn(1, 2, 16, 16)))


def test_poisson_is_the_deviance_and_least_at_the_measured_rates():
    counts = torch.tensor([0.0, 1.0, 5.0, 90.0]).reshape(1, 1, 2, 2)
    rate = torch.tensor([0.5, 2.0, 5.0, 70.0]).reshape(1, 1, 2, 2)
    batch = RestoredBatch(rate.log(), counts, counts=counts, expected=torch.exp)
    terms = [0.5, 1 * math.log(1 / 2) - (1 - 2), 0, 90 * math.log(90 / 70) - 20]
    assert poisson(batch).item() == pytest.approx(2 * sum(terms) / 4, rel=1e-5)
    with pytest.raises(BadInput, match="poisson: needs measured counts"):
        poisson(RestoredBatch(rate, counts))
    assert RestoredBatch(rate, counts, "high").terms({"poisson": poisson}) == {}


def test_images_that_do_not_belong_together_are_refused():
    one = torch.zeros(1, 1, 8, 8)
    with pytest.raises(BadInput, match=r"high: target: \(1, 1, 8, 9\) must have the shape of the image"):
        RestoredBatch(one, torch.zeros(1, 1, 8, 9), "high")
    with pytest.raises(BadInput, match="low: counts"):
        RestoredBatch(one, one, counts=torch.zeros(1, 1, 4, 4))
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(BadInput, match="data_range"):
            RestoredBatch(one, one, data_range=wrong)


def test_knobs_that_mean_nothing_are_refused():
    one = RestoredBatch(torch.zeros(1, 1, 2, 8), torch.zeros(1, 1, 2, 8))
    with pytest.raises(BadInput, match=r"gradient: \(2, 8\) pixels are too few"):
        gradient(one)
    with pytest.raises(BadInput, match=r"eps: 0\.0 must be above zero"):
        charbonnier(one, eps=0.0)
    with pytest.raises(BadInput, match="window: 8 has no middle"):
        similarity(one, window=8)


def test_a_training_file_lists_them_by_name(tmp_path):
    assert set(names(ROOM)) == set(restoration_losses.__all__) - {"RestoredBatch"}
    (tmp_path / "vgg.pth").touch()
    node = call(ROOM, {"perceptual": {"weight": 0.5, "file": "vgg.pth"}}, "losses").with_paths_from(tmp_path)
    assert node.values == {"weight": 0.5, "file": tmp_path.resolve() / "vgg.pth"}
    one = RestoredBatch(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8))
    found = one.terms({"charbonnier": call(ROOM, {"charbonnier": {"weight": 3}}, "losses").partial()})
    assert found["charbonnier"].item() == pytest.approx(3, rel=1e-4)
