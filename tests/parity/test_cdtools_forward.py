"""Patterns of our models are those of cdtools 0.3.2 where it is right, option by option.

Both models are made by the same call on the same data and get the same random state. Positions lie a
little above whole pixels: where single precision puts one just below, theirs moves the probe by almost a
pixel, around the edge of its window.
"""

import warnings

import numpy as np
import pytest
import torch

from phaseloom.compat import cdtools as ours

pytest.importorskip("cdtools")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cdtools as theirs

torch.set_num_threads(1)

COUNT, WAVELENGTH, DISTANCE, PITCH = 6, 1.4e-9, 0.5, 75e-6
FRACTIONS = {"whole": 1e-3, "half": 0.3}


def arguments(shape, *, near=False, **more):
    """Of a dataset in either package: random counts at random places on a grid of object pixels."""
    random = np.random.default_rng(3)
    if near:
        pixel = np.array([PITCH, PITCH]) * 1e-2 / (1e-2 + DISTANCE)
    else:
        pixel = WAVELENGTH * DISTANCE / (np.array(shape) * PITCH)
    steps = random.integers(0, 12, (COUNT, 2))
    translations = np.zeros((COUNT, 3))
    translations[:, 1], translations[:, 0] = -(steps * pixel).T
    basis = np.array([[0, -PITCH], [-PITCH, 0], [0, 0]])
    geometry = {"distance": DISTANCE, "basis": basis, "corner": None}
    counts = random.poisson(50, (COUNT, *shape)).astype(np.float32)
    return (translations, counts), {"wavelength": WAVELENGTH, "detector_geometry": geometry, **more}


def their_model(shape, options, near=False, fraction=1e-3, **more):
    args, known = arguments(shape, near=near, **more)
    known["wavelength"] = np.float32(WAVELENGTH)
    known["detector_geometry"]["distance"] = np.float32(DISTANCE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = theirs.datasets.Ptycho2DDataset(*(one.astype(np.float32) for one in args), **known)
        model = theirs.models.FancyPtycho.from_dataset(dataset, obj_padding=8, near_field=near, **options)
    model.min_translation -= fraction
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in ("probe", "obj", "weights"):
            parameter = getattr(model, name)
            noise = torch.randn(parameter.shape, dtype=parameter.dtype, generator=draw)
            parameter.copy_(parameter + 0.3 * noise if name == "weights" else noise)
        model.background.copy_(torch.rand(model.background.shape, generator=draw))
        index = torch.arange(COUNT)
        return model, model.forward(index, dataset.translations[index])


def our_model(shape, options, there, near=False, fraction=1e-3, **more):
    args, known = arguments(shape, near=near, **more)
    model = ours.models.FancyPtycho.from_dataset(
        ours.datasets.Ptycho2DDataset(*args, **known), obj_padding=16, near_field=near, **options
    )
    core, index = model.core, torch.arange(COUNT)
    with torch.no_grad():
        core.scan.start += fraction
        strength = there.probe_norm / core.probe.scale / there.oversampling  # theirs means over pixels
        core.probe.relative.copy_(there.probe * strength)
        _lay(core, there, args[0])
        core.detector.root.copy_(core.detector.arrange(there.background) / core.detector.scale)
        if there.weights.ndim > 1:
            core.probe.mixture.copy_(there.weights)
        else:
            core.detector.weights.copy_(there.weights.square())
        return model.forward(index)


def _lay(core, there, translations):
    """Their object where their windows are, on our canvas."""
    theirs_at = theirs.tools.interactions.translations_to_pixel(
        there.obj_basis, torch.as_tensor(translations, dtype=torch.float32)
    )
    corner = (theirs_at - there.min_translation).floor().long()
    ours_at, _ = core.scan(torch.arange(COUNT))
    away = ours_at - corner
    assert (away == away[0]).all(), "steps of windows differ"
    (y, x), wave = away[0].tolist(), there.obj.detach().reshape(-1, *there.obj.shape[-2:])
    laid = torch.ones_like(core.object.wave)
    top, left = max(0, -y), max(0, -x)
    some = wave[:, top : top + laid.shape[-2] - max(0, y), left : left + laid.shape[-1] - max(0, x)]
    y, x = max(0, y), max(0, x)
    laid[:, 0, y : y + some.shape[-2], x : x + some.shape[-1]] = some
    core.object.set_transmission(laid)


def difference(shape, options, near=False, fraction=1e-3, **more):
    """Largest difference of amplitudes relative to their root mean square."""
    there, known = their_model(shape, options, near, fraction, **more)
    found = our_model(shape, options, there, near, fraction, **more)
    gap = found.clamp(min=0).sqrt() - known.clamp(min=0).sqrt()
    return float(gap.abs().max() / known.mean().sqrt())


SHAPES = [(16, 16), (14, 18)]

OPTIONS = {
    "one mode": {},
    "modes": {"n_modes": 3},
    "OPRP": {"n_modes": 3, "dm_rank": 2},
    "OPRP of full rank": {"n_modes": 2, "dm_rank": -1},
    "oversampling": {"oversampling": 2},
    "oversampling by three": {"oversampling": 3, "n_modes": 2},
    "plane waves": {"fourier_probe": True, "n_modes": 2},
    "Fourier crop": {"probe_fourier_crop": 2},
    "saturation": {"saturation": 12.0},
    "crop, waves, OPRP, oversampling": {
        "probe_fourier_crop": 3,
        "fourier_probe": True,
        "n_modes": 3,
        "dm_rank": 2,
        "oversampling": 2,
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("fraction", FRACTIONS.values(), ids=FRACTIONS)
def test_far_field(shape, options, fraction):
    assert difference(shape, options, fraction=fraction) < 1e-4


@pytest.mark.parametrize("options", [OPTIONS[name] for name in ("one mode", "modes", "OPRP")])
@pytest.mark.parametrize("fraction", FRACTIONS.values(), ids=FRACTIONS)
def test_near_field(options, fraction):
    assert (
        difference((16, 16), {"propagation_distance": 1e-2, **options}, near=True, fraction=fraction) < 1e-4
    )


def test_flat_field_and_background():
    flat = np.random.default_rng(5).uniform(0.5, 1, (16, 16)).astype(np.float32)
    assert difference((16, 16), {"use_qe_mask": True}, qe_mask=flat) < 1e-4


def test_finite_pixels():
    """Theirs has the transform of the area half a sample off, over 2N - 1 samples: alike in the limit."""
    few, many = (difference((n, n), {"simulate_finite_pixels": True}) for n in (16, 64))
    assert few < 0.05
    assert many < 0.4 * few
