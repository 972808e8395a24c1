"""Patches to images: exact where patches are, honest about places, constants and seams."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from phaseloom.errors import BadInput
from phaseloom.retrieval.ground_truth import compute_seed_centre, crop_as_seed, measure_bright_area
from phaseloom.retrieval.networks import stitching
from phaseloom.retrieval.networks.stitching import crop_patch, list_windows
from phaseloom.simulation import microscopes

WEIGHTS = pytest.mark.parametrize("weight", ["hann", "flat"])


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    """A band-limited image that repeats itself."""
    noise = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    far = [torch.fft.fftfreq(n, dtype=torch.float64).abs() < 0.15 for n in shape[-2:]]
    return torch.fft.ifft2(torch.fft.fft2(noise) * (far[0][:, None] & far[1])).real.float()


def cut(image: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
    """Patches ``(b, k, size, size)`` at whole places."""
    return torch.stack([image[:, y : y + size, x : x + size] for y, x in places.long().tolist()], 1)


def scan_places(rows: int, cols: int, n: int, stride: int) -> torch.Tensor:
    return torch.tensor(list_windows(rows, cols, n, stride), dtype=torch.float32) * 5


def parameters(builder) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in builder().parameters())


@WEIGHTS
def test_true_patches_give_the_true_image(weight):
    image, places = picture(2, 5 * 12 + 11, 5 * 8 + 11), scan_places(13, 9, 4, 3)
    patches = cut(image, places, 26)
    out = stitching.overlap(weight=weight)(patches, places.expand(2, -1, -1), (71, 51))
    torch.testing.assert_close(out, image, atol=1e-5, rtol=0)


@WEIGHTS
def test_constants_of_patches_are_found_from_their_overlaps(weight):
    image, places = picture(2, 71, 51), scan_places(13, 9, 4, 3)
    level = torch.randn(2, len(places), 1, 1, generator=torch.Generator().manual_seed(1)) * 3
    patches = cut(image, places, 26) + level - level.mean(1, keepdim=True)
    out = stitching.overlap(weight=weight)(patches, places[None], (71, 51))
    torch.testing.assert_close(out, image, atol=3e-5, rtol=0)


def test_constants_are_the_least_squares_of_differences():
    """Three patches in a row that disagree by more than constants, solved by hand."""
    patches = torch.randn(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    places = torch.tensor([[[0.0, 0], [0, 2], [0, 3]]], dtype=torch.float64)
    rows, right = [torch.ones(3, dtype=torch.float64) * 100], [torch.zeros(1, dtype=torch.float64)]
    canvas = torch.full((3, 4, 7), torch.nan, dtype=torch.float64)
    for number, x in enumerate((0, 2, 3)):
        canvas[number, :, x : x + 4] = patches[0, number]
    for y, x in np.ndindex(4, 7):
        there = (~canvas[:, y, x].isnan()).nonzero().flatten().tolist()
        for one in there:
            for other in there[: there.index(one)]:
                row = torch.zeros(3, dtype=torch.float64)
                root = 1 / len(there) ** 0.5
                row[one], row[other] = root, -root
                rows.append(row)
                right.append(root * (canvas[other, y, x] - canvas[one, y, x])[None])
    constant = torch.linalg.lstsq(torch.stack(rows), torch.cat(right)[:, None]).solution
    expected = (canvas + constant[:, :, None]).nanmean(0)
    out = stitching.overlap(weight="flat")(patches, places, (4, 7))
    torch.testing.assert_close(out[0], expected, atol=1e-9, rtol=0)


def test_patches_that_do_not_meet_keep_their_levels():
    places = torch.tensor([[[0.0, 0], [0, 6]]])
    patches = torch.stack([torch.full((4, 4), 1.0), torch.full((4, 4), 5.0)])[None]
    out = stitching.overlap(weight="flat")(patches, places, (5, 10))
    assert out[0, 0].tolist() == [1, 1, 1, 1, 0, 0, 5, 5, 5, 5]
    assert out[0, 4].tolist() == [0] * 10


def test_two_groups_of_patches_each_keep_their_mean():
    places = torch.tensor([[[0.0, 0], [0, 2], [0, 10], [0, 12]]])
    patches = torch.tensor([1.0, 3.0, 10.0, 20.0])[:, None, None].expand(4, 4, 4)[None]
    out = stitching.overlap(weight="flat")(patches, places, (4, 16))
    torch.testing.assert_close(out[0, 0, :6], torch.full((6,), 2.0))
    torch.testing.assert_close(out[0, 0, 10:], torch.full((6,), 15.0))


def test_an_asymmetric_mark_appears_at_its_pixel():
    patches, places = torch.zeros(1, 1, 6, 6), torch.tensor([[[3.0, 8.0]]])
    patches[0, 0, 1, 4] = 1
    out = stitching.overlap()(patches, places, (12, 20))
    assert out[0].nonzero().tolist() == [[4, 12]]


def test_patches_over_the_edge_are_cut():
    image = picture(1, 40, 30)
    places = torch.tensor([[[-5.0, -7.0], [12.0, 8.0], [25.0, 18.0], [-5.0, 18.0], [25.0, -7.0]]])
    patches = torch.stack([crop_patch(image, (y, x), 20) for y, x in places[0].tolist()], 1)
    out = stitching.overlap()(patches, places, (40, 30))
    covered = stitching.overlap()(torch.ones_like(patches), places, (40, 30)) > 0
    torch.testing.assert_close(out[covered], image[covered], atol=1e-5, rtol=0)
    assert covered[0, 0, 0]
    assert covered[0, -1, -1]


def test_patches_between_pixels_lie_where_they_should():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing="ij")
    places = torch.tensor([[[1.25, 2.5], [6.7, 9.1]]])
    patches = torch.stack([(y + a)[:12, :12] - 3 * (x + b)[:12, :12] for a, b in places[0].tolist()])[None]
    out = stitching.overlap(weight="flat")(patches, places, (20, 24))[0]
    torch.testing.assert_close(
        out[7:13], torch.where(out[7:13] == 0, 0, (y - 3 * x)[7:13]), atol=1e-4, rtol=0
    )
    assert (out != 0).sum() == 2 * 11**2 - 6 * 4


def test_a_smooth_image_survives_places_between_pixels():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    image = (torch.cos(2 * torch.pi * y / 32) + torch.sin(2 * torch.pi * (x + y) / 64))[None]
    places = torch.tensor([[[0.3, 0.2], [0.3, 30.6], [28.5, 0.2], [28.5, 30.6]]])
    patches = torch.stack([crop_patch(image, (a, b), 34) for a, b in places[0].tolist()], 1)
    out = stitching.overlap()(patches, places, (64, 64))
    assert (out - image)[:, 2:61, 2:61].abs().max() < 0.02


def test_stitching_is_differentiable_in_patches_and_places():
    net = stitching.overlap()
    patches = torch.randn(1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([[[0.3, 0.6], [1.2, 2.4]]], dtype=torch.float64)
    patches.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: net(p, places, (7, 8)), patches)
    places.requires_grad_()
    net(patches, places, (7, 8)).square().sum().backward()
    assert places.grad.abs().min() > 0


def test_places_that_do_not_go_with_patches_are_refused():
    with pytest.raises(BadInput, match=r"give .* for each"):
        stitching.overlap()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2), (9, 9))


def test_the_residual_net_begins_as_overlap():
    image, places = picture(2, 71, 51), scan_places(13, 9, 4, 3)
    patches = cut(image, places, 26)
    out = stitching.residual(width=8, depth=2)(patches, places[None], (71, 51))
    torch.testing.assert_close(out, image, atol=1e-5, rtol=0)


def test_the_residual_net_mends_what_overlap_cannot():
    image, places = picture(1, 31, 31), scan_places(5, 5, 3, 2)
    noise = torch.randn(1, 4, 21, 21, generator=torch.Generator().manual_seed(0))
    patches, net = cut(image, places, 21) * 0.5 + 0.1 * noise, stitching.residual(width=8, depth=1)
    steps, losses = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(30):
        steps.zero_grad()
        loss = (net(patches, places[None], (31, 31)) - image).square().mean()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]
    high = net(patches + 7, places[None], (31, 31)) - net(patches, places[None], (31, 31))
    torch.testing.assert_close(high, torch.full_like(high, 7.0), atol=1e-3, rtol=0)


def test_the_seed_has_the_parameters_of_its_parts():
    widths, drawn = (1, 64, 128, 256, 512), (768, 512, 256, 128, 64, 32, 16)
    encoder = sum(9 * a * b + b + 2 * b for a, b in pairwise(widths)) + 512 * 768 + 768
    decoder = sum(16 * a * b + b + 2 * b for a, b in pairwise(drawn)) + 9 * 16 + 1
    tokens, vit, gain = 768 + 26 * 768, 85_054_464 + 2 * 768, 1
    assert parameters(stitching.seed) == encoder + tokens + vit + decoder + gain == 96_110_562


def test_the_seed_draws_256_pixels_from_25_patches():
    with torch.device("meta"):
        net = stitching.seed()
        out = net(torch.zeros(2, 25, 76, 76), torch.zeros(2, 25, 2), (256, 256))
    assert out.shape == (2, 256, 256)


def test_the_seed_hears_where_patches_lie():
    with torch.device("meta"):
        layout = stitching.seed().layout
    layout.blocks, layout.norm = torch.nn.ModuleList(), torch.nn.Identity()
    layout = layout.to_empty(device="cpu").eval()
    for value in layout.state_dict().values():
        value.zero_()
    layout.places.load_state_dict(stitching.PositionEncoding(768, shortest=20.0, longest=2000.0).state_dict())
    patches, places = torch.zeros(1, 25, 76, 76), torch.zeros(1, 25, 2)
    places[0, 7, 1] = 45.0
    tokens = layout(patches, places, (256, 256))
    away = (tokens - tokens[..., :1, :1]).abs().amax(1)[0]
    assert away.nonzero().tolist() == [[1, 2]]


def test_the_seed_refuses_any_other_canvas_in_a_sentence():
    with torch.device("meta"):
        net = stitching.seed()
    with pytest.raises(BadInput, match="25 for 256 x 256: stitch with residual or overlap"):
        net(torch.zeros(1, 4, 76, 76), torch.zeros(1, 4, 2), (121, 121))


def test_windows_are_those_of_the_document():
    first = (0, 9, 18, 27, 36)
    assert list_windows(50, 50, 14, 9) == [(row, col) for row in first for col in first]


@pytest.mark.parametrize(("rows", "cols", "n", "stride"), [(14, 14, 14, 9), (15, 40, 14, 9), (23, 31, 7, 7)])
def test_every_probe_is_in_a_window_and_no_window_leaves_the_scan(rows, cols, n, stride):
    seen = np.zeros((rows, cols), int)
    found = list_windows(rows, cols, n, stride)
    for row, col in found:
        assert 0 <= row <= rows - n
        assert 0 <= col <= cols - n
        seen[row : row + n, col : col + n] += 1
    assert seen.min() == 1 or stride < n
    assert seen.min() > 0
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(("knobs", "sentence"), [((13, 50, 14, 9), "smaller"), ((50, 50, 14, 15), "leaves")])
def test_windows_that_cannot_cover_a_scan_are_refused(knobs, sentence):
    with pytest.raises(BadInput, match=sentence):
        list_windows(*knobs)


def test_a_crop_at_a_whole_place_is_a_slice():
    image = picture(2, 30, 41)
    assert torch.equal(crop_patch(image, (4.0, 9), 12), image[:, 4:16, 9:21])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_crop_between_pixels_reads_the_wave_there(dtype):
    y, x = torch.meshgrid(torch.arange(30, dtype=dtype), torch.arange(24, dtype=dtype), indexing="ij")

    def wave(y, x):
        return torch.cos(2 * torch.pi * (7 * y / 30 - 5 * x / 24)) + 0.5 * torch.sin(2 * torch.pi * x / 8)

    for a, b in ((3.37, 8.0), (-4.6, 17.25)):
        patch = crop_patch(wave(y, x)[None], (a, b), 9)
        expected = wave(y[:9, :9] + a, x[:9, :9] + b)[None]
        torch.testing.assert_close(patch, expected, atol=2e-5, rtol=0)
        assert patch.dtype == dtype


def test_the_seed_crop_is_the_documented_roll():
    phase = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    for row, col in ((0, 36), (9, 18), (27, 5)):
        bright = [round((2.0 * start + 13) * 2.56) for start in (row, col)]
        rolled = np.roll(phase, (256 // 2 - bright[0], 256 // 2 - bright[1]), axis=(0, 1))
        expected = rolled[128 - 38 : 128 + 38, 128 - 38 : 128 + 38]
        assert np.array_equal(crop_as_seed(torch.from_numpy(phase), row, col).numpy(), expected)
        assert np.array_equal(crop_as_seed(torch.from_numpy(phase)[None], row, col)[0].numpy(), expected)


def test_the_seed_crop_is_up_to_half_a_pixel_off():
    exact = [(2.0 * index + 13) * 2.56 for index in (0, 9, 18, 27, 36)]
    away = [compute_seed_centre(2.0 * index) - e for index, e in zip((0, 9, 18, 27, 36), exact, strict=True)]
    assert min(away) == pytest.approx(-0.44)
    assert max(away) == pytest.approx(0.48)


def test_the_patch_is_the_area_that_a_window_of_probes_lights_up():
    """The document: 76 pixels are where a probe is brighter than 5 % of its maximum."""
    layout = microscopes.seed(np.random.default_rng())
    assert measure_bright_area(layout, (14, 14)) == (76, 76)
    intensity = layout.probe().abs().square().sum(0).numpy()
    lit = np.zeros((400, 400), bool)
    (rows, columns) = np.nonzero(intensity > 0.05 * intensity.max())
    for y in range(14):
        for x in range(14):
            corner = np.round(5.12 * np.array([y, x])).astype(int)
            lit[rows + corner[0], columns + corner[1]] = True
    sides = [int(np.ptp(np.nonzero(lit.any(axis))[0])) + 1 for axis in (1, 0)]
    assert measure_bright_area(layout, (14, 14)) == tuple(sides)
    wide, tall = measure_bright_area(layout, (2, 5), share=0.01)
    assert 5.12 < wide < tall - 2 * 5.12
    for share in (0.0, 1.0):
        with pytest.raises(BadInput, match="must lie between 0 and 1"):
            measure_bright_area(layout, (14, 14), share=share)
