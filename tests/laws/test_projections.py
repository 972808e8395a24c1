"""Laws of projections: what is imposed once is imposed, what must stay stays."""

import inspect
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
import torch

from phaseloom.errors import BadInput
from phaseloom.physics import filters
from phaseloom.physics.propagate import angular_spectrum, far_field, multislice
from phaseloom.ptycho import projections
from phaseloom.ptycho.projections import Setting

SETTING = Setting((0.3, 0.25), 0.042, (8.0, 8.0), (3, 5), 7.0)
SHAPES = [(2, 3, 9, 14), (1, 1, 8, 5), (3, 4, 7, 7), (1, 2, 2, 1)]
PARTS = ("probe", "object", "amplitude", "phase", "offsets", "tilts")
NAMES = [name for name in projections.__all__ if name != "Setting"]
STRAIGHT = {
    "bounded": {},
    "bounded_amplitude": {},
    "orthogonal": {},
    "positive": {},
    "positive (minimum)": {"how": "subtract minimum"},
    "power": {},
    "still": {},
    "strongest_cosines": {"keep": 0.3},
    "mirrored_amplitude": {"relax": 0.0},
    "complex_ratio (phase alone)": {"alpha1": 0.0, "alpha2": 1.0},
}
"""Those that change nothing when applied again."""

every = pytest.mark.parametrize("name", NAMES)
any_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
any_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def drawn(shape=SHAPES[0], dtype=torch.float64, seed=0):
    """Parts of a random model: phases of either sign, amplitudes about one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    phase, amplitude = 0.3 * normal(*shape), 1 + 0.05 * normal(*shape)
    probe = torch.complex(normal(3, 9, 6), normal(3, 9, 6)) * torch.tensor([3.0, 1.0, 0.5])[:, None, None]
    real = {"amplitude": amplitude, "phase": phase, "offsets": normal(15, 2), "tilts": 1e-3 * normal(15, 2)}
    out = {name: value.to(dtype) for name, value in real.items()}
    wave = {"object": torch.polar(amplitude, phase), "probe": probe}
    return out | {name: value.to(dtype.to_complex()) for name, value in wave.items()}


def asked(function):
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.POSITIONAL_ONLY]


def imposed(name, parts, **knobs):
    """Parts after a projection, as the loop does it."""
    function = getattr(projections, name)
    given = asked(function)
    here = (
        replace(SETTING, thickness=(8.0,) * (parts["object"].shape[1] - 1)) if "object" in parts else SETTING
    )
    out = function(*(here if one == "setting" else parts[one] for one in given), **knobs)
    out = out if isinstance(out, tuple) else (out,)
    return parts | dict(zip([one for one in given if one != "setting"], out, strict=True))


def apart(ours, theirs):
    return (ours - theirs).abs().max().item()


class TestEvery:
    @every
    def test_asks_for_parts_that_there_are(self, name):
        assert set(asked(getattr(projections, name))) <= {*PARTS, "setting"}

    @every
    @any_shape
    @any_dtype
    def test_keeps_shape_and_precision_and_stays_finite(self, name, shape, dtype):
        before = drawn(shape, dtype)
        after = imposed(name, before)
        for one, value in after.items():
            assert value.shape == before[one].shape
            assert value.dtype == before[one].dtype
            assert value.isfinite().all()

    @every
    def test_leaves_what_it_is_given_alone(self, name):
        before, kept = drawn(), drawn()
        imposed(name, before)
        for one, value in before.items():
            assert torch.equal(value, kept[one])

    @every
    def test_is_finite_at_the_start_of_a_reconstruction(self, name):
        """A flat object, untouched positions, no tilt, an empty probe."""
        flat = {one: torch.zeros_like(value) for one, value in drawn().items()}
        flat |= {"amplitude": flat["amplitude"] + 1, "object": flat["object"] + 1}
        for value in imposed(name, flat).values():
            assert value.isfinite().all()

    @pytest.mark.parametrize("case", STRAIGHT)
    @any_shape
    def test_what_is_imposed_is_imposed(self, case, shape):
        name = case.split(" ")[0]
        once = imposed(name, drawn(shape), **STRAIGHT[case])
        twice = imposed(name, once, **STRAIGHT[case])
        for one, value in once.items():
            assert apart(value, twice[one]) < 1e-12

    @pytest.mark.parametrize("name", ["bounded_amplitude", "mirrored_amplitude", "positive", "still"])
    def test_full_relaxation_changes_nothing(self, name):
        after = imposed(name, drawn(), relax=1.0)
        for one, value in drawn().items():
            assert apart(value, after[one]) < 1e-15

    @pytest.mark.parametrize(
        "name",
        ["lateral_blur", "depth_blur", "low_pass", "missing_wedge", "strongest_cosines", "complex_ratio"],
    )
    def test_only_what_is_named_changes(self, name):
        before = drawn()
        for changed, kept in (("amplitude", "phase"), ("phase", "amplitude")):
            knobs = {"alpha2": 0.5} if name == "complex_ratio" else {}
            after = imposed(name, before, of=changed, **knobs)
            both = imposed(name, before, **knobs)
            assert torch.equal(after[kept], before[kept])
            assert torch.equal(after[changed], both[changed])
            assert not torch.equal(after[changed], before[changed])


class TestBlur:
    @any_shape
    @pytest.mark.parametrize(
        "name", ["lateral_blur", "depth_blur", "low_pass", "missing_wedge", "strongest_cosines"]
    )
    def test_a_constant_stays(self, name, shape):
        flat = {one: torch.full(shape, value).double() for one, value in (("amplitude", 1.0), ("phase", 0.4))}
        after = imposed(name, flat)
        assert apart(after["amplitude"], flat["amplitude"]) < 1e-6
        assert apart(after["phase"], flat["phase"]) < 1e-6

    @pytest.mark.parametrize("name", ["lateral_blur", "depth_blur"])
    def test_the_sum_stays_away_from_the_edges(self, name):
        phase = torch.zeros(2, 8, 9, 11, dtype=torch.float64)
        phase[1, 3:5, 3:6, 4:6] = drawn((2, 3, 2), torch.float64)["phase"]
        after = imposed(name, {"amplitude": phase, "phase": phase})["phase"]
        torch.testing.assert_close(after.sum((1, 2, 3)), phase.sum((1, 2, 3)))

    @pytest.mark.parametrize("taps", [1, 3, 5, 9])
    @pytest.mark.parametrize(("edge", "mode"), [("reflect", "mirror"), ("replicate", "nearest")])
    def test_is_that_of_scipy(self, taps, edge, mode):
        """Also with kernels longer than the field."""
        field = drawn((2, 3, 4, 7))["phase"]
        kernel = filters.gaussian_kernel(taps, 0.8).numpy()
        ours = filters.blur(field, (1, 3), std=0.8, taps=taps, edge=edge)
        for axis in (1, 3):
            field = scipy.ndimage.correlate1d(np.asarray(field), kernel, axis=axis, mode=mode)
        np.testing.assert_allclose(ours.numpy(), field, atol=1e-14)

    @pytest.mark.parametrize("name", ["lateral_blur", "depth_blur", "smooth_tilts"])
    def test_a_kernel_needs_a_middle(self, name):
        with pytest.raises(BadInput, match=rf"{name}.taps: 4 must be an odd number of pixels"):
            imposed(name, drawn(), taps=4)

    def test_autograd_passes(self):
        field = drawn((1, 2, 3, 4))["phase"].requires_grad_()
        assert torch.autograd.gradcheck(lambda f: filters.blur(f, (-1, -3), std=0.7, taps=5), field)


class TestFrequencies:
    @any_shape
    def test_low_pass_keeps_the_mean_and_takes_power(self, shape):
        before = drawn(shape)
        after = imposed("low_pass", before)
        torch.testing.assert_close(after["phase"].mean((-2, -1)), before["phase"].mean((-2, -1)))
        assert after["phase"].square().sum() <= before["phase"].square().sum() * (1 + 1e-12)

    def test_low_pass_treats_both_directions_alike(self):
        """On an oblong grid, mirrored or transposed, the same comes out mirrored or transposed."""
        phase = drawn((1, 2, 9, 14))["phase"]
        _, plain = projections.low_pass(phase, phase, radius=0.4)
        _, mirrored = projections.low_pass(phase.flip(-1), phase.flip(-1), radius=0.4)
        _, turned = projections.low_pass(phase.mT, phase.mT, radius=0.4)
        assert apart(mirrored.flip(-1), plain) < 1e-14
        assert apart(turned.mT, plain) < 1e-14

    @pytest.mark.parametrize("axes", [(-2, -1), (0,), (1, 2, 3)])
    @any_shape
    def test_cosines_are_those_of_scipy_and_unitary(self, shape, axes):
        field, other = drawn(shape)["phase"], drawn(shape, seed=1)["phase"]
        cosines = filters.cosine_transform(field, axes)
        np.testing.assert_allclose(
            cosines, scipy.fft.dctn(field.numpy(), axes=axes, norm="ortho"), atol=1e-13
        )
        back = filters.inverse_cosine_transform(other, axes)
        np.testing.assert_allclose(back, scipy.fft.idctn(other.numpy(), axes=axes, norm="ortho"), atol=1e-13)
        torch.testing.assert_close(filters.inverse_cosine_transform(cosines, axes), field)
        torch.testing.assert_close((cosines * other).sum(), (field * back).sum())

    @any_shape
    def test_all_cosines_are_the_object(self, shape):
        """Even when applied over and over."""
        before = drawn(shape, torch.float32)
        after = before
        for _ in range(20):
            after = imposed("strongest_cosines", after, keep=1.0)
        assert apart(after["phase"], before["phase"]) < 1e-5

    def test_the_kept_share_is_kept(self):
        field = drawn((2, 3, 9, 14))["phase"]
        for keep in (0.01, 0.05, 0.5):
            left = filters.keep_strongest(field, keep)
            assert (left != 0).sum() == round(keep * field.numel())
            assert field[left == 0].abs().max() < left[left != 0].abs().min()


class TestDepth:
    """Filters along the beam."""

    @pytest.mark.parametrize("name", ["depth_blur", "missing_wedge"])
    @pytest.mark.parametrize("padded", [False, True])
    def test_change_nothing_in_a_single_slice(self, name, padded):
        knobs = {"alpha": 0.0, "relax": 0.0, "padded": padded} if name == "missing_wedge" else {}
        before = drawn((2, 1, 9, 14))
        after = imposed(name, before, **knobs)
        for one in ("amplitude", "phase"):
            assert apart(after[one], before[one]) < 1e-14

    @pytest.mark.parametrize(("name", "padded"), [("depth_blur", False), ("missing_wedge", True)])
    def test_treat_top_and_bottom_alike(self, name, padded):
        knobs = {"padded": True} if padded else {}
        before = drawn()
        flipped = {one: before[one].flip(1) for one in ("amplitude", "phase")}
        after = imposed(name, before, **knobs)["phase"]
        assert apart(imposed(name, flipped, **knobs)["phase"].flip(1), after) < 1e-14

    def test_the_wedge_is_the_usual_one_without_damping_of_detail(self):
        """``1 - 2/pi atan(beta^2 kz^2 / (kx^2 + ky^2 + floor))``."""
        z, y, x = np.meshgrid(*(np.fft.fftfreq(n) for n in (5, 6, 7)), indexing="ij")
        wanted = 1 - 2 / np.pi * np.arctan(0.3**2 * z**2 / (x**2 + y**2 + 2e-3))
        like = torch.zeros(1, dtype=torch.float64)
        window = filters.wedge_window((5, 6, 7), beta=0.3, alpha=0.0, floor=2e-3, like=like)
        np.testing.assert_allclose(window.numpy(), wanted, atol=1e-15)

    @pytest.mark.parametrize("padded", [False, True])
    def test_the_wedge_keeps_the_projected_phase(self, padded):
        """All slices summed: what does not vary along the beam is not in the wedge."""
        before = drawn()
        after = imposed("missing_wedge", before, alpha=0.0, padded=padded)
        torch.testing.assert_close(after["phase"].sum(1), before["phase"].sum(1))


def lattice(shape, spacing, angle):
    """Phase of a layer of atoms on a turned square lattice."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - n / 2 for n in shape), indexing="ij")
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    return 0.05 * torch.exp(3 * (torch.cos(math.tau * u / spacing) + torch.cos(math.tau * v / spacing) - 2))


def alike(a, b):
    """Correlation of two images."""
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-30))


class TestTwistedBilayer:
    """Two layers turned by 20 degrees in twelve slices, one in the first two: what the last slice shows."""

    def last_slice(self, name, **knobs):
        top, bottom = (lattice((47, 40), 7.3, math.radians(angle)) for angle in (0, 20))
        phase = torch.zeros(1, 12, 47, 40, dtype=torch.float64)
        phase[0, 0], phase[0, 1], phase[0, 5] = top, 0.5 * top, bottom
        assert abs(alike(top, bottom)) < 0.05
        _, after = getattr(projections, name)(torch.ones_like(phase), phase, **knobs)
        assert alike(after[0, 2], top) > 0.9
        return alike(after[0, -1], top), float(after[0, -1].norm() / top.norm())

    def test_the_wedge_shows_the_top_layer_at_the_bottom(self):
        likeness, strength = self.last_slice("missing_wedge")
        assert likeness > 0.95
        assert strength > 0.15

    def test_the_padded_wedge_does_not(self):
        likeness, strength = self.last_slice("missing_wedge", padded=True)
        assert abs(likeness) < 0.1
        assert strength < 0.06

    def test_the_blur_does_not(self):
        assert self.last_slice("depth_blur") == (0.0, 0.0)


class TestProbe:
    def test_orthogonal_keeps_the_incoherent_sum(self):
        before = drawn()["probe"]
        after = projections.orthogonal(before)
        torch.testing.assert_close(after.abs().square().sum(0), before.abs().square().sum(0))
        gram = after.flatten(1).conj() @ after.flatten(1).T
        assert (gram - gram.diag().diag()).abs().max() < 1e-12

    def test_power_keeps_the_shape(self):
        before = drawn()["probe"]
        after = projections.power(before, SETTING)
        assert after.abs().square().sum().item() == pytest.approx(SETTING.power)
        assert apart(after / after.norm(), before / before.norm()) < 1e-15

    @pytest.mark.parametrize("name", ["aperture", "support"])
    def test_power_falls_and_modes_are_sorted(self, name):
        before = drawn()["probe"][[1, 0, 2]]
        after = imposed(name, {"probe": before}, share=1.0)["probe"]
        power = after.abs().square().sum((1, 2))
        assert power.sum() < before.abs().square().sum()
        assert (power.diff() <= 0).all()

    @pytest.mark.parametrize("name", ["aperture", "support"])
    @pytest.mark.parametrize(("share", "changed"), [(0.5, 1), (0.9, 2), (1.0, 3)])
    def test_weak_modes_stay(self, name, share, changed):
        """Powers are about 0.88, 0.10 and 0.02."""
        before = drawn()["probe"]
        after = imposed(name, {"probe": before}, share=share, radius=0.9)["probe"]
        same = [min(apart(mode, other) for other in after) < 1e-15 for mode in before]
        assert same == [False] * changed + [True] * (3 - changed)

    def test_a_wide_aperture_changes_nothing(self):
        before = drawn()["probe"]
        assert apart(projections.aperture(before, radius=3.0, share=1.0), before) < 1e-9

    def test_support_acts_where_the_probe_is_sharpest(self):
        """A spot flown away is cut where it was a spot: nothing is lost although its cone is wide."""
        spot = torch.zeros(1, 32, 32, dtype=torch.complex128)
        spot[0, 15:17, 15:17] = 1
        shape, pixel, wavelength = (32, 32), SETTING.pixel, SETTING.wavelength
        away = angular_spectrum(shape, pixel, wavelength, torch.tensor(60.0, dtype=torch.float64))
        cone = torch.fft.ifft2(torch.fft.fft2(spot) * away)
        looked = {"radius": 0.4, "depths": (-100.0, 100.0), "steps": 21}
        assert apart(projections.support(cone, SETTING, **looked), cone) < 1e-6
        here = projections.support(cone, SETTING, radius=0.4, depths=(0.0, 0.0), steps=1)
        assert here.abs().square().sum() < 0.9 * cone.abs().square().sum()


class TestRecentre:
    def specimen(self, shape=(2, 7, 12, 10)):
        phase = torch.zeros(shape, dtype=torch.float64)
        phase[:, 1:3] = 0.2 * drawn((2, 2, 12, 10))["phase"].abs()
        return torch.polar(1 - 0.1 * phase, phase)

    def test_brings_the_phase_to_the_middle_slice(self):
        moved, _ = projections.recentre(self.specimen(), drawn()["probe"], SETTING, percentile=50.0)
        weight = moved.angle().clamp(min=0).sum((0, 2, 3))
        middle = (weight * torch.arange(7)).sum() / weight.sum()
        assert middle.item() == pytest.approx(3, abs=0.1)

    @pytest.mark.parametrize("slices", [2, 4])
    def test_patterns_stay_where_vacuum_is_moved(self, slices):
        """Whole slices: object and focus move together, and no pattern changes."""
        phase = torch.zeros(1, 9, 12, 10, dtype=torch.float64)
        phase[0, 4 - slices] = 0.3 * drawn((1, 1, 12, 10))["phase"][0, 0].abs()
        stack, probe = torch.polar(torch.ones_like(phase), phase), drawn()["probe"]
        wave = torch.nn.functional.pad(probe, (2, 2, 1, 2))
        setting = Setting(SETTING.pixel, SETTING.wavelength, (8.0,) * 8)
        moved, flown = projections.recentre(stack, wave, setting, percentile=0.0)
        step = torch.tensor(8.0, dtype=torch.float64)
        kernel = angular_spectrum((12, 10), setting.pixel, setting.wavelength, step)

        def pattern(wave, stack):
            return far_field(multislice(wave[None], stack, kernel)).abs().square().sum(1)

        assert apart(moved, stack) > 0.1
        assert apart(flown, wave) > 0.1
        torch.testing.assert_close(pattern(flown, moved), pattern(wave, stack))

    def test_power_stays(self):
        before = drawn() | {"object": self.specimen()}
        moved, flown = projections.recentre(before["object"], before["probe"], SETTING)
        for ours, theirs in ((moved, before["object"]), (flown, before["probe"])):
            assert ours.abs().square().sum().item() == pytest.approx(theirs.abs().square().sum().item())

    def test_a_single_slice_stays(self):
        parts = drawn((2, 1, 9, 14))
        setting = Setting((0.3, 0.3), 0.042)
        moved, flown = projections.recentre(parts["object"], parts["probe"], setting)
        assert torch.equal(moved, parts["object"])
        assert torch.equal(flown, parts["probe"])


class TestObject:
    def test_complex_ratio_bears_any_amplitude(self):
        phase = drawn()["phase"]
        amplitude = torch.linspace(-0.5, 1.2, phase.numel(), dtype=torch.float64).reshape(phase.shape)
        for alpha1, alpha2 in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0)):
            for value in projections.complex_ratio(amplitude, phase, alpha1=alpha1, alpha2=alpha2):
                assert value.isfinite().all()

    def test_matter_of_one_kind_has_its_ratio_already(self):
        phase = drawn()["phase"].abs()
        amplitude = torch.exp(-0.2 * phase)
        after = projections.complex_ratio(amplitude, phase, alpha1=0.7, alpha2=0.4)
        assert apart(after[0], amplitude) < 1e-15
        assert apart(after[1], phase) < 1e-15

    @pytest.mark.parametrize("ratio", [None, 0.2])
    def test_one_material_stays_whatever_the_zero_of_its_phase(self, ratio):
        phase = drawn((1, 1, 40, 33))["phase"]
        before = torch.polar(torch.exp(0.2 * phase + 0.1), phase - 0.4)
        assert apart(projections.one_material(before, ratio=ratio), before) < 1e-12

    def test_one_material_takes_the_noise_of_the_absorption_and_leaves_what_is_slow(self):
        """Its ratio is that of the phase although the amplitude is noisier than it absorbs."""
        parts = drawn((1, 1, 128, 120))
        y = torch.arange(128, dtype=torch.float64)[:, None]
        slow = 0.05 * torch.cos(2 * torch.pi * y / 128).expand(128, 120)
        phase = -0.5 * ((y // 8 + torch.arange(120) // 8) % 2)[None, None]
        noise = parts["amplitude"].log()
        after = projections.one_material(torch.polar(torch.exp(0.1 * phase + slow + noise), phase))
        assert apart(after.angle(), phase) < 1e-12
        left = after.abs().log() - 0.1 * phase - slow
        assert (left - left.mean()).std() < 0.2 * noise.std()

    def test_absorption_unlike_the_phase_has_no_negative_ratio(self):
        """Electrons are advanced where they are lost: details of their amplitude go, none is invented."""
        phase = drawn((1, 1, 40, 32))["phase"]
        after = projections.one_material(torch.polar(torch.exp(-0.2 * phase), phase))
        assert after.abs().log().std() < 0.2 * (0.2 * phase).std()

    def test_bounds_hold(self):
        parts = drawn()
        bounded = projections.bounded_amplitude(parts["amplitude"], between=(0.97, 1.01))
        assert 0.97 <= bounded.min() < bounded.max() <= 1.01
        assert projections.positive(parts["phase"]).min() == 0
        assert projections.positive(parts["phase"], how="subtract minimum").min() == 0
        assert projections.bounded(2 * parts["object"]).abs().max() < 1 + 1e-12


class TestScan:
    def test_offsets_are_still_and_keep_their_differences(self):
        before = drawn()["offsets"]
        after = projections.still(before)
        assert after.mean(0).abs().max() < 1e-15
        torch.testing.assert_close(after.diff(dim=0), before.diff(dim=0))

    def test_tilts_that_are_the_same_everywhere_stay(self):
        tilts = torch.tensor([[1e-3, -2e-3]], dtype=torch.float64)
        assert torch.equal(projections.smooth_tilts(tilts, SETTING), tilts)
        alike = tilts.expand(15, 2).clone()
        assert apart(projections.smooth_tilts(alike, SETTING), alike) < 1e-15

    def test_rows_of_the_raster_are_not_mixed_up(self):
        """The grid is (slow, fast): what varies along the slow axis alone stays so."""
        tilts = torch.arange(3.0).repeat_interleave(5)[:, None].expand(15, 2)
        after = projections.smooth_tilts(tilts, SETTING, std=0.5).reshape(3, 5, 2)
        assert apart(after, after[:, :1].expand_as(after)) < 1e-6
        assert (after.diff(dim=0) > 0).all()

    @pytest.mark.parametrize("grid", [None, (4, 4)])
    def test_no_raster_no_smoothing(self, grid):
        setting = Setting((0.3, 0.3), 0.042, grid=grid)
        with pytest.raises(BadInput, match="is not a full raster of 15 positions"):
            projections.smooth_tilts(drawn()["tilts"], setting)


WRONG = {
    "aperture": [{"radius": 0.0}, {"width": -1.0}, {"share": 1.5}],
    "support": [{"radius": 0.0}, {"order": 0}, {"steps": 0}, {"share": -0.1}],
    "lateral_blur": [{"std": 0.0}, {"taps": 0}],
    "depth_blur": [{"std": float("nan")}],
    "low_pass": [{"radius": -0.1}, {"width": 0.0}],
    "missing_wedge": [{"beta": -1.0}, {"floor": 0.0}, {"relax": 2.0}],
    "strongest_cosines": [{"keep": 0.0}, {"keep": 1.2}],
    "complex_ratio": [{"alpha1": 2.0}],
    "mirrored_amplitude": [{"relax": -1.0}, {"power": 0.0}, {"scale": -1.0}],
    "one_material": [{"ratio": -0.1}, {"slow": 0.0}, {"slow": float("nan")}],
    "bounded": [{"most": 0.0}],
    "bounded_amplitude": [{"between": (1.1, 0.9)}],
    "positive": [{"relax": float("nan")}],
    "recentre": [{"percentile": 100.0}, {"scale": 0.0}, {"most": -1.0}],
    "still": [{"relax": 7.0}],
    "smooth_tilts": [{"std": 0.0}],
}


@pytest.mark.parametrize(("name", "knobs"), [(name, one) for name, all_ in WRONG.items() for one in all_])
def test_a_senseless_knob_is_named(name, knobs):
    (knob,) = knobs
    with pytest.raises(BadInput, match=rf"projections: {name}\.{knob}: .* must be"):
        imposed(name, drawn(), **knobs)


def test_a_projection_is_called_by_its_knobs():
    """As the loop holds it."""
    blur = partial(projections.lateral_blur, std=0.8)
    assert asked(blur) == ["amplitude", "phase"]
