"""Repeated reconstructions differ by what no pattern knows; that is removed, and the rest is judged."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from phaseloom.errors import BadInput
from phaseloom.metrics import ensembles as repeats
from phaseloom.metrics import mixed_states as states
from phaseloom.metrics import phase, resolution

FIELD, WINDOW = (75, 82), (33, 36)


def noise(*shape, seed=0, width=0.0):
    random = np.random.default_rng(seed)
    values = random.normal(size=shape) + 1j * random.normal(size=shape)
    return gaussian_filter(values, (0,) * (len(shape) - 2) + (width, width), mode="wrap") * max(width, 1)


def specimen(slices=1, seed=0):
    phases = noise(slices, *FIELD, seed=seed, width=2.5).real
    return 0.9 * np.exp(0.6j * phases)


def seen(shift, slices=2):
    """A part of a larger, periodic scene, which therefore moves exactly."""
    shape = (FIELD[0] + 53, FIELD[1] + 60)
    y, x = (np.fft.fftfreq(n) * s for n, s in zip(shape, shift, strict=True))
    spectrum = np.fft.fft2(0.9 * np.exp(0.6j * noise(slices, *shape, width=2.5).real))
    scene = np.fft.ifft2(spectrum * np.exp(-2j * np.pi * np.add.outer(y, x)))
    return scene[:, 26 : 26 + FIELD[0], 30 : 30 + FIELD[1]]


def light(centre=(16, 18), modes=2):
    y, x = np.mgrid[: WINDOW[0], : WINDOW[1]]
    main = np.exp(
        -((y - centre[0]) ** 2 + 1.3 * (x - centre[1]) ** 2) / 25 + 0.02j * (y - centre[0] + 2) ** 2
    )
    return np.stack([40 * main * (0.3 * (x - centre[1])) ** m for m in range(modes)])


def moved(stack, shift):
    return np.stack([phase.shift_image(image, shift) for image in stack])


def ramp(shape, y, x):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(1j * (y * rows + x * columns))


def patterns(object, probe, corners=((3, 7), (21, 30), (40, 44))):
    """Far fields of one slice at a few places."""
    windows = [object[0, y : y + WINDOW[0], x : x + WINDOW[1]] for y, x in corners]
    return np.stack([np.sum(np.abs(np.fft.fft2(w * probe)) ** 2, 0) for w in windows])


def inner(object, margin=12):
    return object[..., margin:-margin, margin:-margin]


def close(one, two, tolerance):
    assert np.abs(one - two).max() < tolerance * np.abs(two).max()


def test_standardising_keeps_the_patterns():
    object, probe = specimen(), light()
    tilted, tipped = 1.7 * object * ramp(FIELD, 0.4, -0.9), 0.8j * probe * ramp(WINDOW, 0.3, 1.1)
    close(patterns(*repeats.standardise(tilted, tipped)), patterns(tilted, tipped), 1e-4)


@pytest.mark.parametrize("slices", [1, 3])
def test_standardising_twice_is_standardising_once(slices):
    probe = light((13.7, 20.2)) * ramp(WINDOW, 0.3, -2.0)
    once = repeats.standardise(specimen(slices), probe)
    twice = repeats.standardise(*once)
    close(twice[0], once[0], 1e-6)
    close(twice[1], once[1], 1e-6)


@pytest.mark.parametrize("slope", [(0.3, -0.7), (2.9, 1.4), (0.0, -3.0)])
def test_scale_phase_and_ramp_are_undone_exactly(slope):
    object, probe = specimen(), light()
    trade = (2.5 * np.exp(1.1j) * ramp(FIELD, *slope), np.exp(-0.4j) / 2.5 * ramp(WINDOW, *slope).conj())
    for one, two in zip(
        repeats.standardise(object * trade[0], probe * trade[1]),
        repeats.standardise(object, probe),
        strict=True,
    ):
        close(one, two, 1e-9)


@pytest.mark.parametrize("shift", [(2.0, -1.0), (0.37, -1.81), (-3.5, 2.25)])
def test_a_joint_shift_is_undone(shift):
    weight = np.zeros(FIELD)
    inner(weight)[:] = 1
    there = repeats.standardise(seen(shift), light((16 + shift[0], 18 + shift[1])), weight=weight)
    here = repeats.standardise(seen((0, 0)), light(), weight=weight)
    close(inner(there[0]), inner(here[0]), 1e-2)
    close(there[1], here[1], 3e-3)


def test_the_choices_are_those_promised():
    weight = np.linspace(0, 2, FIELD[1]) * np.ones(FIELD)
    object, probe = repeats.standardise(specimen(2), light((12.0, 21.5)) * ramp(WINDOW, 1, 1), weight=weight)
    np.testing.assert_allclose(np.average(np.abs(object) ** 2, (1, 2), np.stack([weight] * 2)), 1, rtol=1e-12)
    np.testing.assert_allclose(np.angle(np.sum(weight * object, (1, 2))), 0, atol=1e-12)
    assert np.angle(probe[0].sum()) == pytest.approx(0, abs=1e-12)
    rows, columns = np.indices(WINDOW)
    intensity = np.sum(np.abs(probe) ** 2, 0)
    centre = [np.average(axis, weights=intensity) for axis in (rows, columns)]
    np.testing.assert_allclose(centre, (16, 18), atol=0.02)
    far = np.sum(np.abs(np.fft.fftshift(np.fft.fft2(probe), axes=(1, 2))) ** 2, 0)
    np.testing.assert_allclose([np.average(a, weights=far) for a in (rows, columns)], (16, 18), atol=0.02)


def test_one_slice_and_one_mode_keep_their_shape():
    object, probe = repeats.standardise(specimen()[0], light()[0])
    assert (object.shape, probe.shape) == (FIELD, WINDOW)


def regauged(seed):
    """The same reconstruction as another run would give it, with a little noise of its own."""
    random = np.random.default_rng(seed)
    object = specimen() + 0.03 * noise(1, *FIELD, seed=seed)
    shift, slope = (tuple(map(float, random.uniform(-most, most, 2))) for most in (2, 0.5))
    mixing = np.linalg.qr(noise(2, 2, seed=seed))[0]
    object = 1.3 * moved(object, shift) * ramp(FIELD, *slope) * np.exp(1j * seed)
    return object, np.tensordot(
        mixing, light((16 + shift[0], 18 + shift[1])) * ramp(WINDOW, *slope).conj(), 1
    )


def test_repeats_that_agree_are_averaged():
    runs = [*map(regauged, range(1, 6)), (specimen(seed=9), light())]
    mean = repeats.synthesise(runs)
    assert mean.agreed == 5
    assert mean.correlation[:5].min() > 0.8
    assert mean.correlation[5] < 0.3
    assert (mean.objects.shape, mean.probe.shape) == ((6, 1, *FIELD), (2, *WINDOW))
    errors = []
    for object in [mean.object, *mean.objects[:5]]:
        one, two = resolution.register(object[0], specimen()[0])
        errors.append(states.rms_error(one, two, scale=True))
    assert errors[0] < 0.6 * min(errors[1:])
    assert states.fidelity(mean.probe, repeats.standardise(specimen(), light())[1]) > 0.995


def test_a_single_reconstruction_agrees_with_itself():
    mean = repeats.synthesise([regauged(1)])
    object, probe = repeats.standardise(*regauged(1))
    assert mean.agreed == 1
    close(mean.object, object, 1e-9)
    assert states.generalised_rms_error(mean.probe, probe) < 1e-9


def test_equal_phases_survive_and_random_ones_do_not():
    wave = noise(41, 38)
    same = np.exp(1j * np.zeros(30))[:, None, None] * wave
    np.testing.assert_allclose(repeats.prtf(same).value, 1, rtol=1e-12)
    value = repeats.prtf(noise(30, 41, 38)).value
    np.testing.assert_allclose(value[4:], 1 / np.sqrt(30), rtol=0.3)


def test_the_transfer_ends_where_the_phases_do():
    shape, pixel = (64, 60), (0.5, 0.5)
    frequency = np.hypot(np.fft.fftfreq(64, 0.5)[:, None], np.fft.fftfreq(60, 0.5))
    spectrum = np.fft.fft2(noise(*shape), norm="ortho")
    lost = np.random.default_rng(1).uniform(0, 2 * np.pi, (40, *shape)) * (frequency > 0.6)
    curve = repeats.prtf(
        np.fft.ifft2(spectrum * np.exp(1j * lost), norm="ortho"), np.abs(spectrum), pixel=pixel
    )
    assert curve.frequency[-1] <= 1
    np.testing.assert_allclose(curve.value[curve.frequency < 0.57], 1, rtol=1e-9)
    assert curve.value[curve.frequency > 0.63].max() < 0.3


def test_one_model_is_held_against_the_measurement():
    waves = noise(1, 5, 21, 24)
    measured = np.abs(np.fft.fft2(waves[0], norm="ortho"))
    np.testing.assert_allclose(repeats.prtf(waves, measured).value, 1, rtol=1e-12)
    np.testing.assert_allclose(repeats.prtf(0.5 * waves, measured).value, 0.5, rtol=1e-12)


def test_signal_to_noise_of_all_data_is_found_from_halves():
    scene, one, two = (noise(160, 150, seed=seed) for seed in range(3))
    for ratio in (0.5, 4.0):
        curve = repeats.ssnr(np.sqrt(ratio) * scene + one, np.sqrt(ratio) * scene + two, window="none")
        assert curve.value[10:].mean() == pytest.approx(2 * ratio, rel=0.1)


def test_signal_to_noise_has_its_limits():
    scene = noise(40, 44)
    assert np.isinf(repeats.ssnr(scene, scene).value[1:]).any()
    assert repeats.ssnr(scene, scene).value.min() > 1e6
    assert repeats.ssnr(scene, -scene).value.max() == 0


@pytest.mark.parametrize("shift", [(3.0, -2.0), (0.37, -1.81), (-7.25, 4.5)])
@pytest.mark.parametrize("kind", [np.real, np.asarray])
def test_sharp_correlations_find_shifts(shift, kind):
    image = kind(noise(51, 57, width=0.7))
    y, x = (np.fft.fftfreq(n) * s for n, s in zip(image.shape, shift, strict=True))
    away = kind(np.fft.ifft2(np.fft.fft2(image) * np.exp(-2j * np.pi * np.add.outer(y, x))))
    found = repeats.deconvolved_correlation(image, 2 * away, window="none")
    assert found.shift == pytest.approx(shift, abs=0.011)
    assert found.height == pytest.approx(1, abs=2e-3)
    peak = np.unravel_index(np.argmax(np.abs(found.kernel)), image.shape)
    np.testing.assert_allclose(np.array(peak) - (25, 28), shift, atol=0.51)


def test_a_sign_and_a_phase_are_no_difference():
    image = noise(31, 36)
    found = repeats.deconvolved_correlation(np.exp(0.7j) * image, image)
    assert (found.shift, found.height) == ((0.0, 0.0), pytest.approx(1))


def test_images_of_different_scenes_have_no_peak():
    found = repeats.deconvolved_correlation(noise(61, 70), noise(61, 70, seed=1), window="none")
    assert found.height < 6 / np.sqrt(61 * 70)


def test_a_wiener_floor_helps_where_only_some_frequencies_were_seen():
    scene = noise(64, 66, width=2.5).real
    image = np.roll(scene, (2, -3), (0, 1)) + 1e-3 * noise(64, 66, seed=4).real
    other = scene + 1e-3 * noise(64, 66, seed=5).real
    plain = repeats.deconvolved_correlation(image, other, window="none")
    damped = repeats.deconvolved_correlation(image, other, noise=0.1, window="none")
    assert damped.shift == pytest.approx((-2, 3), abs=0.02)
    assert damped.height > 0.9 > plain.height


@pytest.mark.parametrize(
    "call",
    [
        lambda: repeats.standardise(specimen(), 0 * light()),
        lambda: repeats.standardise(specimen(), light(), weight=np.ones((3, 3))),
        lambda: repeats.standardise(specimen(), light(), weight=np.zeros(FIELD)),
        lambda: repeats.synthesise([]),
        lambda: repeats.synthesise([(specimen(), light()), (specimen(), light(modes=1))]),
        lambda: repeats.prtf(noise(8, 8)),
        lambda: repeats.prtf(noise(3, 8, 8), np.ones((8, 9))),
        lambda: repeats.deconvolved_correlation(noise(8, 8), noise(8, 9)),
        lambda: repeats.deconvolved_correlation(np.ones((8, 8)), np.ones((8, 8))),
    ],
)
def test_what_cannot_be_judged_is_refused(call):
    with pytest.raises(BadInput):
        call()
