"""Finer pixels than the detector's in the near field: first guess of the probe, coarse grids first."""

import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.ptycho import multigrid, probes
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction.level import build_levels


def holograms(side: int = 32, *, focus: float = np.inf) -> Scan4D:
    """Patterns of an uneven beam without an object, its own numpy formula."""
    y, x = np.indices((side, side)) - side // 2
    beam = 1e4 * np.exp(-(y**2 + x**2) / (2 * 6.0**2)) * (1 + 0.3 * np.cos(0.6 * x + 0.4 * y))
    geometry = Geometry(wavelength=1.0, shape=(side, side), angle=(1e-4, 1e-4), distance=1e7, focus=focus)
    places = np.indices((5, 5)).reshape(2, -1).T * 3 * geometry.pixel[0]
    return Scan4D(counts=np.broadcast_to(beam, (25, side, side)).copy(), positions=places, geometry=geometry)


@pytest.mark.parametrize("focus", [np.inf, 2e7])
@pytest.mark.parametrize(
    ("to", "match"), [((64, 64), "resample"), ((96, 96), "resample"), ((48, 48), "crop")]
)
def test_the_first_guess_explains_the_mean_hologram_on_every_grid(
    focus: float, to: tuple[int, int], match: str
) -> None:
    scan = prepare.enlarge(holograms(focus=focus), to=to, match=match)
    model = Ptychography.of(scan, probe=probes.from_patterns(scan, modes=1))
    seen = model.pattern(12)
    beam = np.asarray(scan.counts[12])
    assert np.abs(seen - beam).sum() < 0.06 * beam.sum()


def test_a_near_field_on_finer_pixels_begins_on_those_of_the_detector() -> None:
    scan = prepare.enlarge(holograms(), to=(128, 128), match="resample")
    assert multigrid.count_finer_grids(scan) == 2
    assert multigrid.count_finer_grids(holograms()) == 0
    assert multigrid.count_finer_grids(prepare.enlarge(holograms(), to=(96, 96), match="resample")) == 0
    assert multigrid.count_finer_grids(prepare.enlarge(holograms(), to=(64, 64), match="crop")) == 0
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 6}), scan=scan)
    levels = build_levels(job.finest, job.recipe)
    assert [level.model.object.canvas.window[0] for level in levels] == [32, 64, 128]
    index = torch.arange(3)
    with torch.no_grad():
        fine, coarse = (level.model(index).numpy() for level in (levels[-1], levels[0]))
    assert abs(fine - coarse).sum() < 0.05 * coarse.sum()


@pytest.mark.parametrize(("projections", "count"), [(["one_material"], 2), (["orthogonal"], 1)])
def test_one_material_begins_on_the_pixels_of_the_detector_too(projections: list[str], count: int) -> None:
    """From a flat object on finer pixels runs are trapped."""
    scan = prepare.enlarge(holograms(), to=(64, 64), match="resample")
    job = pl.Job.begin(pl.Reconstruct.of({"epochs": 6, "projections": projections}), scan=scan)
    assert len(build_levels(job.finest, job.recipe)) == count
    assert all(epoch.loss < 1e3 for epoch in job)


@pytest.mark.slow
def test_finer_pixels_explain_holograms_of_petra_better() -> None:
    scan = pl.read(pl.samples.near_field(), knobs={"focus": "3.65 mm"})
    recipe = pl.Reconstruct.of({"epochs": 40, "holdout": 0.1, "probe": {"from_patterns": {"modes": 3}}})
    held = {}
    for name, data in (
        ("own", scan),
        ("finer", prepare.enlarge(scan, to=(200, 200), match="resample")),
    ):
        job = pl.Job.begin(recipe, scan=data)
        job.wants_evidence = False
        held[name] = [epoch.holdout for epoch in job if epoch.holdout is not None][-1]
    assert held["finer"] < 0.75 * held["own"]
