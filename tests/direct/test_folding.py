"""A raster too wide for its object: details are folded, and the pixels of the detector tell them apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from benchmarks.folded import Crystal, draw_crystal, simulate_crystal
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.direct.checks import folding
from phaseloom.direct.checks.folding import MIN_SHARE_BEYOND, Aliases, may_be_folded
from phaseloom.direct.reconstruct import describe_folding, reconstruct_scan
from phaseloom.direct.survey import survey_disk
from phaseloom.direct.transfer import LinearOptics, compute_columns
from phaseloom.errors import BadInput
from phaseloom.simulation import simulate

PIXEL, GRID, SEMIANGLE = 0.2, (24, 24), 0.022


def scan_of(step: float, blur: float) -> Scan4D:
    """Atoms, or a soft object, on a raster without rotation; the aperture resolves 0.95 angstrom."""
    positions = simulate.raster(GRID, step) + 8.0
    side = int((positions.max() + 8.0) / PIXEL) + 2
    phase = simulate.atoms((side, side), PIXEL, peak=0.25, seed=1)
    if blur:
        soft = gaussian_filter(np.random.default_rng(2).normal(size=(side, side)), blur / PIXEL)
        phase = (0.2 * soft / soft.std())[None]
    beam = {"energy": 80e3, "semiangle": SEMIANGLE, "defocus": 120.0, "window": 64, "dose": 1e5}
    scan, _ = simulate.electron_scan(phase, PIXEL, positions, **beam)
    return replace(scan, grid=GRID, oriented=False, probe=None)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("seed", "step", "defocus", "turn"), [(1, 1.9, 180.0, 1.1), (2, 2.4, -130.0, -2.5), (3, 1.7, 240.0, 0.3)]
)
def test_optics_and_image_of_a_crystal_are_found_on_a_raster_that_folds_its_lattice(
    seed, step, defocus, turn
):
    scan, phase, places = simulate_crystal(Crystal(seed, step=step, defocus=defocus, turn=turn))
    found = reconstruct_scan(scan, aberrations={"defocus": np.copysign(100.0, defocus)})
    assert found.fit is not None
    assert found.fit.beyond > MIN_SHARE_BEYOND
    assert not found.is_folded
    assert not found.optics.orientation & 4
    off = np.degrees(np.remainder(float(found.optics.rotation) - turn + np.pi, 2 * np.pi) - np.pi)
    assert abs(off) < 1
    assert found.optics.defocus == pytest.approx(defocus, rel=0.04)
    image = found.image.phase.double().numpy()
    finer = image.shape[0] // scan.grid[0]
    assert finer > 1
    seen = map_coordinates(gaussian_filter(phase, 1.2), places.T, order=1).reshape(scan.grid)[2:-2, 2:-2]
    shown = image[::finer, ::finer][2:-2, 2:-2]
    assert np.corrcoef(shown.ravel(), seen.ravel())[0, 1] > 0.9
    coarse = reconstruct_scan(scan, aberrations={"defocus": np.copysign(100.0, defocus)}, upsample=1)
    assert coarse.is_folded
    assert any("too few for the details of this object" in line for line in coarse.lines())


@pytest.mark.medium
@pytest.mark.parametrize("step", [2.0, 3.0])
def test_optics_of_atoms_anywhere_are_found_on_a_raster_that_folds_them(step) -> None:
    """Two and three times what the aperture resolves; the linear model alone is off by up to 17 degrees."""
    found = reconstruct_scan(scan_of(step, 0.0))
    assert found.optics.defocus == pytest.approx(120, abs=4)
    assert abs(float(found.optics.rotation)) < np.radians(1)
    assert not any("too wide for the details" in line for line in found.lines())


def test_the_frequency_of_the_object_is_chosen_at_each_of_the_raster() -> None:
    """A spectrum that is the model's own at frequencies beyond the raster's is told exactly."""
    scan = scan_of(2.0, 0.0)
    optics = LinearOptics.of(
        wavelength=scan.geometry.wavelength, semiangle=SEMIANGLE, aberrations={"defocus": 120.0}
    )
    spectrum = survey_disk(scan).measure(scan).transform().select(torch.tensor([5, 17, 40, 77]))
    limit = SEMIANGLE / scan.geometry.wavelength
    aliases = Aliases.of(spectrum, limit)
    lattice = (aliases.repeated.frequency - spectrum.frequency[aliases.index]) * 2.0
    assert torch.allclose(lattice, lattice.round(), atol=1e-6)
    for number in range(len(spectrum.frequency)):
        rows = torch.nonzero(aliases.index == number)[:, 0]
        for row in rows[:: max(1, len(rows) // 3)]:
            true = aliases.repeated.frequency[row][None]
            column = compute_columns(optics, spectrum.place, true, edge=spectrum.edge, amplitude=False)[
                ..., 0
            ]
            data = replace(
                aliases,
                spectrum=replace(spectrum, values=column.expand(4, -1)),
                repeated=replace(aliases.repeated, values=column.expand(len(aliases.index), -1)),
            )
            chosen = data.choose(optics).spectrum.frequency[number]
            assert torch.allclose(chosen, true[0]) or float(column.abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("step", "blur", "is_folded"), [(2.0, 0.0, True), (0.6, 0.0, False), (2.0, 3.0, False)]
)
def test_fine_steps_and_soft_objects_are_not_folded(step: float, blur: float, is_folded: bool) -> None:
    scan = scan_of(step, blur)
    survey = survey_disk(scan)
    optics = LinearOptics(scan.geometry.wavelength, SEMIANGLE, {})
    bright = survey.measure(scan)
    for upsample in (1, 2):
        line = describe_folding(bright.transform(border=0.06, upsample=upsample), optics)
        assert (line is not None) == is_folded


def test_photons_without_a_disk_are_sent_to_a_reconstruction() -> None:
    scan = scan_of(0.6, 0.0)
    rng = np.random.default_rng(0)
    speckle = rng.poisson(3, (len(scan), 16, 16)).astype(np.uint16)
    geometry = replace(scan.geometry, beam="photon", shape=(16, 16))
    scan = replace(scan, counts=speckle, geometry=geometry, mask=np.ones((16, 16), bool))
    with pytest.raises(BadInput, match=r"scan of photons: use phaseloom reconstruct"):
        reconstruct_scan(scan)
    with pytest.raises(BadInput, match=r"detector columns\?$"):
        reconstruct_scan(replace(scan, geometry=replace(geometry, beam="electron")))


@pytest.mark.parametrize(("factor", "may_be"), [(1, True), (10, False), (1e4, False)])
def test_a_step_in_a_wrong_unit_is_not_looked_at(factor, may_be) -> None:
    """Thousands of frequencies would fold on each of the raster: nothing could tell them apart."""
    scan = prepare.scale(scan_of(2.0, 0.0), factor=factor)
    optics = LinearOptics(scan.geometry.wavelength, SEMIANGLE, {"C10": -120.0})
    assert may_be_folded(survey_disk(scan).measure(scan).transform(), optics) == may_be


def test_a_step_in_millimetre_is_a_sentence() -> None:
    """It was an error of the linear algebra: no frequency of such a raster changes anything."""
    with pytest.raises(BadInput, match=r"as the aperture resolves: check the unit of the step"):
        reconstruct_scan(prepare.scale(scan_of(2.0, 0.0), factor=1e7))


@pytest.mark.medium
def test_a_step_that_nothing_holds_stays_within_limits() -> None:
    """Of this crystal it shrank to nothing, and the fit ended in an error of the linear algebra."""
    scan, _, _ = simulate_crystal(draw_crystal(207))
    found = reconstruct_scan(scan)
    assert found.fit is not None
    assert not found.fit.is_step_free
    assert float(found.optics.step) == pytest.approx(1, abs=0.02)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("seed", "step", "planes", "factor"),
    [(904, 1.735, 2.589, 1.08), (914, 2.011, 3.005, 0.93), (914, 2.011, 3.005, 1.0)],
)
def test_a_step_stated_wrong_is_found_where_the_raster_folds_a_lattice(seed, step, planes, factor) -> None:
    """Folded frequencies scale with the step: those of another lattice explained more, at another angle."""
    crystal = replace(draw_crystal(seed), step=step, planes=planes)
    scan = prepare.scale(simulate_crystal(crystal)[0], factor=factor)
    found = reconstruct_scan(scan, aberrations={"defocus": crystal.defocus})
    assert found.fit is not None
    assert found.fit.is_step_free == (factor != 1)
    assert float(found.optics.step) * factor == pytest.approx(1, abs=0.02)
    off = np.degrees(np.remainder(float(found.optics.rotation) - crystal.turn + np.pi, 2 * np.pi) - np.pi)
    assert abs(off) < 1
    assert any("the stated step is wrong" in line for line in found.lines()) == (factor != 1)


@pytest.mark.medium
def test_folded_details_that_are_a_small_part_do_not_tell_the_step(monkeypatch) -> None:
    """Of weak particles, faults of the scan made steps explain more that were 5 and 11 % off."""
    crystal = replace(draw_crystal(904), step=1.735, planes=2.589)
    scan = prepare.scale(simulate_crystal(crystal)[0], factor=1.08)
    monkeypatch.setattr(folding, "MIN_SHARE_BEYOND", 1.01)
    found = reconstruct_scan(scan, aberrations={"defocus": crystal.defocus})
    assert found.fit is not None
    assert not found.fit.is_step_free
