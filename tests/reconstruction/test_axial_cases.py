"""Scans along the beam: what one place seen in several planes tells of the object, and what it does not.

The experiment of the notes on CDTools: a zone plate with astigmatism and trefoil, a star of 0.8 rad and 10 %
absorption, 1e6 photons in each pattern, planes 0.5 to 1.3 mm behind the focus; depth of focus 74 um.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phaseloom.data.formats import cxi, native
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.illumination import AberratedProbe
from phaseloom.reconstruction import preflight as foresight
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

N, PIXEL, WAVELENGTH, UM = 128, 280.0, 1.41, 1e4
RING = (12, 35)
"""Central stop and aperture, pixels of a pattern."""

FIXED = {"positions": 0, "affine": 0, "probe": 0}
COEFFICIENTS = ["C10", "C12", "C21", "C23", "C30"]
Y, X = np.mgrid[:N, :N] - N // 2
RADIUS, ANGLE = np.hypot(Y, X), np.arctan2(Y, X)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def flown(wave: np.ndarray, distance: float) -> np.ndarray:
    """Free flight as in a textbook."""
    f = np.fft.fftfreq(N, PIXEL)
    kz = np.sqrt(1 / WAVELENGTH**2 - f[:, None] ** 2 - f**2) - 1 / WAVELENGTH
    return np.fft.ifft2(np.fft.fft2(wave) * np.exp(2j * np.pi * distance * kz))


def focus(*, aberrated: bool = True) -> np.ndarray:
    """The wave in the focus."""
    bend = 1.5 * np.cos(2 * ANGLE) * (RADIUS / 35) ** 2 + (RADIUS / 35) ** 3 * np.cos(3 * ANGLE)
    pupil = ((RING[0] < RADIUS) & (RING[1] > RADIUS)) * np.exp(1j * bend * aberrated)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))


def star(size: int = N) -> np.ndarray:
    """Spokes that absorb a tenth and shift by 0.8 rad, in the middle of a plane."""
    y, x = np.mgrid[:size, :size] - size // 2
    spokes = (np.sin(16 * np.arctan2(y, x)) > 0) & (np.hypot(y, x) > 6) & (np.hypot(y, x) < 45)
    return (1 - 0.1 * spokes) * np.exp(-0.8j * spokes)


def planes(count: int, span: float) -> np.ndarray:
    """Distances from the focus, angstrom."""
    return (500 + np.linspace(0, span, count)) * UM


def series(away: np.ndarray, *, seed: int = 0, told: np.ndarray | None = None, dose: float = 1e6) -> Scan4D:
    """One place in planes at distances from the focus; heights may be told wrong."""
    where = np.full((len(away), 2), N // 2 * PIXEL)
    optics = {"wavelength": WAVELENGTH, "dose": dose, "seed": seed, "distance": 5e10}
    middle = flown(focus(), float(away.mean()))
    scan = simulate.axial_scan(star(), PIXEL, where, -away, middle, **optics)
    return scan if told is None else replace(scan, heights=-told)


def wrong(away: np.ndarray, seed: int = 0) -> np.ndarray:
    """The same with errors of 11.5 um rms that no common move makes up for."""
    errors = np.random.default_rng(seed).normal(size=len(away))
    return away + 11.5 * UM * (errors - errors.mean()) / errors.std()


def lens(away: np.ndarray, **knobs: Any) -> dict[str, Any]:
    """Its aperture, with the edge between pixels of the patterns, and the defocus; no aberrations."""
    pixel = WAVELENGTH / (N * PIXEL)
    angles = {"semiangle": f"{(RING[1] - 0.01) * pixel} rad", "stop": f"{(RING[0] + 0.02) * pixel} rad"}
    return {**angles, "defocus": f"{-away.mean()} A", **knobs}


def job(scan: Scan4D, folder: Path, *, rates: dict[str, float] | None = None, **changes: Any) -> Job:
    """A run that begins as the parameter file says."""
    native.write(scan, folder / "scan.h5")
    tree = {"file": str(folder / "scan.h5"), "start": "none", "noise": "amplitude", "holdout": 0}
    tree |= {
        "probe": {"stored": {"modes": 1}},
        "epochs": 160,
        "rates": {**FIXED, "object": 1.0, **(rates or {})},
    }
    return Job.begin(Reconstruct.of({**tree, **changes}))


def run(*args: Any, **knobs: Any) -> Job:
    """The same, done."""
    done = job(*args, **knobs)
    for _ in done:
        pass
    return done


def error(done: Job, away: np.ndarray) -> float:
    """Of the object, relative, where the beam was brighter than a fiftieth, but for a factor."""
    light = sum(np.abs(flown(focus(), s)) ** 2 for s in away)
    light = light * (light > 0.02 * np.max(light))
    room = done.model.scan.canvas
    top, left = np.round(-np.array(room.origin) / room.pixel).astype(int)
    found = done.model.object.transmission()[0, 0].detach().numpy()[top : top + N, left : left + N]
    factor = (light * found.conj() * star()).sum() / (light * np.abs(found) ** 2).sum()
    return float(
        np.sqrt((light * np.abs(factor * found - star()) ** 2).sum() / (light * np.abs(star()) ** 2).sum())
    )


def strays(done: Job, away: np.ndarray) -> float:
    """Errors of the heights, rms, um; a common one is that of the defocus."""
    assert done.model.heights is not None
    return float((done.model.heights.angstrom() + away).std() / UM)


def restarted(folder: Path, **changes: Any) -> Job:
    """A run that begins where ``first.h5`` ended."""
    known = {"object": {"from_file": {"path": str(folder / "first.h5")}}}
    known["probe"] = {"from_file": {"path": str(folder / "first.h5"), "modes": 1}}
    known["prepare"] = [{"positions": {"path": str(folder / "first.h5")}}]
    return Job.begin(Reconstruct.of({"file": str(folder / "scan.h5"), "start": "none", **known, **changes}))


def mixed(*, lateral: int = 5, seed: int = 0) -> Scan4D:
    """Steps to the side, of 12 pixels, each at a height of its own; the guess knows no aberrations."""
    rng = np.random.default_rng(seed)
    where = simulate.raster((lateral, lateral), 12 * PIXEL, jitter=0.7 * PIXEL, seed=seed) + 72 * PIXEL
    heights = rng.uniform(-400, 400, len(where)) * UM
    middle = 900 * UM - float(heights.mean())
    optics = {"wavelength": WAVELENGTH, "dose": 1e6, "seed": seed, "distance": 5e10}
    scan = simulate.axial_scan(star(192), PIXEL, where, heights, flown(focus(), middle), **optics)
    return replace(scan, probe=1e3 * flown(focus(aberrated=False), middle)[None])


EIGHT = planes(8, 800)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_eight_planes_and_a_known_probe_tell_the_object(tmp_path, seed):
    """0.0495, 0.0492 and 0.0495 when written."""
    assert error(run(series(EIGHT, seed=seed), tmp_path), EIGHT) <= 0.05


@pytest.mark.slow
def test_more_planes_tell_more(tmp_path):
    cases = [planes(count, span) for count, span in ((1, 0), (2, 400), (4, 600), (16, 800))]
    errors = [error(run(series(away), tmp_path), away) for away in cases]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.2
    assert errors[-1] < 0.04


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_heights_that_were_told_wrong_are_found(tmp_path, seed):
    """From 11.5 um rms to 0.44, 0.26 and 0.22 um when written."""
    scan = series(EIGHT, seed=seed, told=wrong(EIGHT, seed))
    begun = job(scan, tmp_path, rates={"heights": 1.0})
    assert strays(begun, EIGHT) == pytest.approx(11.5, rel=1e-3)
    for _ in begun:
        pass
    assert strays(begun, EIGHT) < 0.5
    assert error(begun, EIGHT) < 0.055


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.97, 1.03])
def test_a_scale_that_was_told_wrong_is_found(tmp_path, factor):
    """From 7.9 um rms to 0.01 um when written."""
    told = EIGHT.mean() + factor * (EIGHT - EIGHT.mean())
    done = run(series(EIGHT, told=told), tmp_path, rates={"height_scale": 0.3})
    assert strays(done, EIGHT) < 0.1
    assert error(done, EIGHT) <= 0.05


@pytest.mark.slow
def test_aberrations_are_found_along_the_beam_alone(tmp_path):
    """The object to 0.050 when written, C12 to 1.48 rad of 1.5, C23 to 1.00 of 1 at the aperture's edge."""
    probe = {"aberrated": lens(EIGHT, refine=COEFFICIENTS, soft=False)}
    done = run(series(EIGHT), tmp_path, rates={"probe": 0.3}, probe=probe)
    assert error(done, EIGHT) <= 0.06
    assert isinstance(done.model.probe, AberratedProbe)
    found, edge = done.model.probe.aberrations(), RING[1] * WAVELENGTH / (N * PIXEL)
    radians = {
        name: 2 * np.pi / WAVELENGTH * found[name] * edge ** (n + 1) / (n + 1)
        for name, n in (("C12", 1), ("C23", 2))
    }
    assert radians["C12"] == pytest.approx(1.5, abs=0.15)
    assert radians["C23"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("count", "span", "warned"), [(1, 0, True), (2, 400, True), (8, 800, False)])
def test_few_planes_are_warned_of(tmp_path, count, span, warned):
    said = foresight.warn_before_run(job(series(planes(count, span)), tmp_path))
    assert any(line.startswith("planes: ") for line in said) == warned


def test_free_pixels_of_a_probe_are_warned_of_where_no_step_goes_to_the_side(tmp_path):
    said = foresight.warn_before_run(job(series(EIGHT), tmp_path, rates={"probe": 0.4}))
    assert any(line.startswith("planes: a free probe") for line in said)
    said = foresight.warn_before_run(job(mixed(), tmp_path, rates={"probe": 0.4}))
    assert not any(line.startswith("planes: ") for line in said)


@pytest.mark.medium
@pytest.mark.parametrize("seed", range(2))
def test_a_free_probe_is_found_where_steps_go_along_the_beam_and_to_the_side(tmp_path, seed):
    """Held-out loss 1.5 with the heights and 15 and 9.3 without, when written."""
    scan, held = mixed(seed=seed), dict[bool, float]()
    assert scan.heights is not None
    truth = flown(focus(), 900 * UM - float(scan.heights.mean()))
    for axial in (True, False):
        done = run(scan, tmp_path, rates={"object": 0.2, "probe": 0.4}, epochs=40, holdout=0.2, axial=axial)
        held[axial] = min(e["holdout"] for e in done.progress.history if e["holdout"] is not None)
        found = done.model.probe.modes()[0].detach().numpy()
        alike = np.abs(np.vdot(found, truth)) / np.linalg.norm(found) / np.linalg.norm(truth)
        assert (alike > 0.99) == axial
    assert held[True] < 2 < held[False]


def test_refined_heights_are_followed_and_a_restart_knows_them(tmp_path):
    """The probe of a result is that at the mean of its heights, wherever that has gone."""
    job_ = job(series(EIGHT, told=wrong(EIGHT)), tmp_path, rates={"heights": 1.0}, epochs=20)
    for _ in job_:
        pass
    moves = [event["state"]["heights moved (A)"] for event in job_.progress.history]
    assert moves[0] == 0.0
    heights = job_.model.heights
    assert heights is not None
    assert moves[-1] == pytest.approx(float(heights.offsets.detach().square().mean().sqrt()) * heights.unit)
    with torch.no_grad():
        heights.offsets += 0.5  # a common move, which is a defocus
    job_.result().save(tmp_path / "first.h5")
    again, index = restarted(tmp_path, noise="amplitude", holdout=0, rates=FIXED), torch.arange(8)
    np.testing.assert_allclose(again.scan.heights, heights.angstrom())
    with torch.no_grad():
        one, other = job_.model(index), again.model(index)
    assert float((one - other).abs().max()) < 2e-3 * float(one.max())


def test_heights_that_are_left_out_are_left_out_of_the_start_too(tmp_path):
    scan = series(EIGHT)
    native.write(scan, tmp_path / "scan.h5")
    recipe = Reconstruct.of({"file": str(tmp_path / "scan.h5"), "axial": False})
    assert recipe.scan().heights is None
    assert recipe.with_settings({"axial": None}).scan().heights is not None


@pytest.mark.parametrize("level", [0.0, 7e5])
def test_a_file_with_one_height_is_one_plane(tmp_path, level):
    scan = replace(series(np.full(8, EIGHT[0])), heights=np.full(8, level))
    cxi.write(scan, tmp_path / "one.cxi")
    said = foresight.warn_before_run(
        Job.begin(Reconstruct.of({"file": str(tmp_path / "one.cxi"), "start": "none"}))
    )
    assert any(line.startswith("planes: 1 plane leaves the object ambiguous") for line in said)
    from phaseloom.compat import cdtools as CDTools

    dataset = CDTools.datasets.AxialPtychoDataset.from_cxi(str(tmp_path / "one.cxi"))
    with pytest.raises(BadInput, match="one plane cannot determine the object"):
        CDTools.models.AxialPtycho.from_dataset(dataset)
