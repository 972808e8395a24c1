"""Scans along the beam: what planes, probes and heights leave of the object, row by row of docs/axial.md.

    python -m benchmarks.axial [--only NAME ...] [--out benchmarks/results/axial-2026-11-21]

The experiments are those of tests/reconstruction/test_axial_cases.py and test_axial_near_field.py; a row that
the folder has is not run again. Errors are those of the complex transmission where the beam was, relative.
"""

import tempfile
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from benchmarks.record import tabulated
from tests.reconstruction import test_axial_cases as cases
from tests.reconstruction import test_axial_near_field as near

EIGHT = cases.EIGHT
SPANS = {1: 0, 2: 400, 4: 600, 8: 800, 16: 800, 24: 800}
"""Planes and how far from first to last, um."""

FREE, BENT = {"probe": 0.4}, {"probe": 0.3}


def planes(count):
    """Distances from the focus, angstrom."""
    return cases.planes(count, SPANS[count])


def run(scan, away, *, truth=False, **changes):
    """One whole run, and what is left: errors of object and heights, aberrations, losses, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        job, begun = cases.job(scan, Path(folder), **changes), time.process_time()
        if truth:
            known(job)
        for _ in job:
            pass
    last = job.progress.history[-1]
    held = [event["holdout"] for event in job.progress.history if event["holdout"] is not None]
    found = {"error": cases.error(job, away), "loss": last["loss"], "holdout": min(held, default=None)}
    if job.model.heights is not None:
        found["heights_um"] = cases.strays(job, away)
    if isinstance(job.model.probe, cases.AberratedProbe):
        found |= radians(job.model.probe)
    return {**found, "epochs": len(job.progress.history), "cpu_s": time.process_time() - begun}


def known(job):
    """Begin at the true object."""
    room = job.model.scan.canvas
    top, left = np.round(-np.array(room.origin) / room.pixel).astype(int)
    whole = np.ones(room.shape, np.complex64)
    whole[top : top + cases.N, left : left + cases.N] = cases.star()
    with torch.no_grad():
        job.model.object.set_transmission(torch.as_tensor(whole)[None, None])


def radians(probe):
    """Astigmatism and trefoil at the aperture's edge."""
    found, edge = probe.aberrations(), cases.RING[1] * cases.WAVELENGTH / (cases.N * cases.PIXEL)
    orders = {"C12": 1, "C23": 2}
    return {k: 2 * np.pi / cases.WAVELENGTH * found[k] * edge ** (n + 1) / (n + 1) for k, n in orders.items()}


def lens(away, *, missing=False, refine=True, **knobs):
    """The zone plate as parameter files say it; an edge half a pixel's fifth closer loses eight pixels."""
    told = cases.lens(away, **knobs)
    if missing:
        told["semiangle"] = f"{(cases.RING[1] - 0.02) * cases.WAVELENGTH / (cases.N * cases.PIXEL)} rad"
    return told | ({"refine": cases.COEFFICIENTS} if refine else {})


def plain(scan, away):
    """The scan with the probe of a lens without aberrations."""
    wave = cases.flown(cases.focus(aberrated=False), float(away.mean()))
    power = np.linalg.norm(scan.probe) / np.linalg.norm(wave)
    return replace(scan, probe=(power * wave)[None])


def along(count=8, *, seed=0, told=None, probe=None, unaberrated=False, dose=1e6, **changes):
    """A place in some planes."""
    away = planes(count)
    scan = cases.series(away, seed=seed, told=None if told is None else told(away), dose=dose)
    changes |= {} if probe is None else {"probe": probe(away)}
    return run(plain(scan, away) if unaberrated else scan, away, **changes)


def scaled(factor):
    """Heights told with a wrong scale."""
    return lambda away: away.mean() + factor * (away - away.mean())


def aberrated(**knobs):
    """The probe of the name."""
    return lambda away: {"aberrated": lens(away, soft=False, **knobs)}


def pupil(*, whole=True, **knobs):
    """A pupil of free phase, its amplitude that of the aperture or of the mean pattern."""
    return lambda away: {
        "pupil": lens(away, refine=False, **knobs) if whole else {"defocus": f"{-away.mean()} A"}
    }


def mixed(seed, *, wrong=False, **changes):
    """Steps along the beam and to the side, a free probe from one without aberrations."""
    scan = cases.mixed(seed=seed)
    true = scan.heights
    if wrong:
        scan = replace(scan, heights=cases.wrong(true, seed))
    with tempfile.TemporaryDirectory() as folder:
        rates = {"object": 0.2, "probe": 0.4, **changes.pop("rates", {})}
        done = cases.run(scan, Path(folder), rates=rates, epochs=40, holdout=0.2, **changes)
    truth = cases.flown(cases.focus(), 900 * cases.UM - float(true.mean()))
    found = done.model.probe.modes()[0].detach().numpy()
    alike = abs(np.vdot(found, truth)) / np.linalg.norm(found) / np.linalg.norm(truth)
    held = min(e["holdout"] for e in done.progress.history if e["holdout"] is not None)
    strays = {} if done.model.heights is None else {"heights_um": cases.strays(done, -true)}
    return {"holdout": held, "probe_alike": alike, **strays}


def nearby(beam, lateral, *, free=False):
    """A near field with its heights and without."""
    scan = near.scanned(beam, lateral=lateral)
    changes = {}
    if free:
        y, x = np.mgrid[: near.N, : near.N] - near.N // 2
        smooth = np.exp(-((np.hypot(y, x) / 40) ** 8)) + 0j
        smooth *= np.linalg.norm(scan.probe) / np.linalg.norm(smooth)
        scan = replace(scan, probe=smooth[None])
        changes = {"rates": {"object": 0.5, "positions": 0, "affine": 0, "probe": 0.4}}
    found = {}
    for name, axial in (("honoured", True), ("ignored", False)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = near.error(near.run(scan, Path(folder), axial=axial, **changes))
    return found


def pure(place, call):
    """The same with a star that does not absorb."""
    star = place.star
    with mock.patch.object(place, "star", lambda size=cases.N: np.exp(1j * np.angle(star(size)))):
        return call()


def single(kind, *, speckles=True):
    """One plane of the parallel beam."""
    y, x = np.mgrid[: near.N, : near.N] - near.N // 2
    smooth = np.exp(-((np.hypot(y, x) / 40) ** 8)) + 0j
    light = near.light() if speckles else smooth
    with mock.patch.object(near, "light", return_value=light):
        scan = near.scanned("parallel", lateral=1).select(np.array([4]))
    knobs = {"axial": None, "epochs": 200, "object": {"pixels": {"kind": kind}}}
    with tempfile.TemporaryDirectory() as folder:
        done = near.run(replace(scan, heights=None), Path(folder), **knobs)
        return {"error": near.error(done), "loss": done.progress.history[-1]["loss"]}


def edge(count=8, seed=0, bands=(0.02, 0.05, 0.1, 0.2, 0.5, 1.0)):
    """The error of the known probe by how bright the beam was, as shares of the brightest place."""
    away = planes(count)
    with tempfile.TemporaryDirectory() as folder:
        done = cases.run(cases.series(away, seed=seed), Path(folder))
    light = sum(np.abs(cases.flown(cases.focus(), s)) ** 2 for s in away)
    light /= light.max()
    room = done.model.scan.canvas
    top, left = np.round(-np.array(room.origin) / room.pixel).astype(int)
    found = done.model.object.transmission()[0, 0].detach().numpy()
    found = found[top : top + cases.N, left : left + cases.N]
    lit = light * (light > bands[0])
    found = found * (lit * found.conj() * cases.star()).sum() / (lit * abs(found) ** 2).sum()
    square, whole = lit * abs(found - cases.star()) ** 2, (lit * abs(cases.star()) ** 2).sum()
    rows = {}
    for low, high in pairwise(bands):
        part = (light > low) & (light <= high)
        rows[f"{low:g} to {high:g}"] = {
            "pixels": int(part.sum()),
            "light": float(light[part].sum() / lit.sum()),
            "share_of_squared_error": float(square[part].sum() / square.sum()),
            "rms": float(np.sqrt((abs(found - cases.star()) ** 2)[part].mean())),
        }
    return {"error": float(np.sqrt(square.sum() / whole)), "bands": rows}


def rows():
    """All rows by name."""
    out = {f"known, {n} planes": partial(along, n) for n in (1, 2, 4, 16)}
    out |= {f"known, 8 planes, seed {s}": partial(along, seed=s) for s in range(3)}
    missing = {"rates": BENT, "probe": aberrated(missing=True)}
    out |= {f"aberrated, eight missing, {n} planes": partial(along, n, **missing) for n in (4, 16)}
    out |= {
        f"aberrated, eight missing, 8 planes, seed {s}": partial(along, seed=s, **missing) for s in range(3)
    }
    out |= _eight()
    for s in range(2):
        out[f"mixed, seed {s}"] = partial(mixed, s)
        out[f"mixed, seed {s}, axial false"] = partial(mixed, s, axial=False)
        out[f"mixed, seed {s}, heights wrong"] = partial(mixed, s, wrong=True)
        moving = {"wrong": True, "rates": {"heights": 1.0}}
        out[f"mixed, seed {s}, heights wrong, refined"] = partial(mixed, s, **moving)
    for beam in ("parallel", "cone"):
        out[f"{beam}, 8 planes"] = partial(nearby, beam, 1)
        out[f"{beam}, 16 places"] = partial(nearby, beam, 4)
        out[f"{beam}, 16 places, free"] = partial(nearby, beam, 4, free=True)
    for name, speckles in (("speckled", True), ("smooth", False)):
        out[f"parallel, 1 plane, {name}"] = partial(single, "complex", speckles=speckles)
        alone = partial(single, "phase", speckles=speckles)
        out[f"parallel, 1 plane, {name}, phase alone"] = partial(pure, near, alone)
    for n in (1, 2):
        for kind in ("complex", "phase"):
            call = partial(along, n, object={"pixels": {"kind": kind}})
            out[f"known, {n} planes, pure phase as {kind}"] = partial(pure, cases, call)
    return out | _judged() | _margin()


def _eight():
    """Eight planes, what is known of probe and heights."""
    out = {"heights wrong": partial(along, told=cases.wrong)}
    for s in range(3):
        told = partial(cases.wrong, seed=s)
        out[f"heights wrong, refined, seed {s}"] = partial(along, seed=s, told=told, rates={"heights": 1.0})
    for f in (0.97, 1.03):
        out[f"scale {f}"] = partial(along, told=scaled(f))
        out[f"scale {f}, refined"] = partial(along, told=scaled(f), rates={"height_scale": 0.3})
    out["aberrated"] = partial(along, rates=BENT, probe=aberrated())
    both = {"told": cases.wrong, "rates": {**BENT, "heights": 1.0}}
    out["aberrated, heights wrong, both refined"] = partial(along, probe=aberrated(), **both)
    for name, knobs in (("soft", {}), ("hard", {"soft": False})):
        out[f"pupil, {name}"] = partial(along, rates=BENT, probe=pupil(**knobs))
    few = partial(along, rates=BENT, probe=pupil(soft=False, missing=True))
    out |= {"pupil, hard, eight missing": few, "pupil, hard, eight missing, 400": partial(few, epochs=400)}
    out["pupil, mean pattern"] = partial(along, rates=BENT, probe=pupil(whole=False))
    out["free from unaberrated"] = partial(along, rates=FREE, unaberrated=True)
    out["unaberrated"] = partial(along, unaberrated=True)
    out["free from the right probe"] = partial(along, rates=FREE)
    return out


def _judged():
    """Twenty-four planes, some of them held out."""
    kinds = {
        "known": {},
        "free from unaberrated": {"rates": FREE, "unaberrated": True},
        "pupil, hard": {"rates": BENT, "probe": pupil(soft=False)},
        "pupil, soft": {"rates": BENT, "probe": pupil()},
        "unaberrated": {"unaberrated": True},
    }
    return {f"24 planes, {k}": partial(along, 24, holdout=0.2, **v) for k, v in kinds.items()}


def _margin():
    """What the error of the known probe consists of."""
    out = {f"known, from the truth, {n} epochs": partial(along, truth=True, epochs=n) for n in (160, 640)}
    out |= {f"known, {n} epochs": partial(along, epochs=n) for n in (40, 80, 320, 640)}
    out["known, 1e7 photons"] = partial(along, dose=1e7)
    out["known, poisson"] = partial(along, noise="poisson")
    return out | {"known, by brightness": edge}


def table(found):
    """In Markdown."""
    lines = ["| row | error | loss | held-out | heights, um | others |", "|---|---|---|---|---|---|"]
    for name, row in found.items():
        first = [row.get(key) for key in ("error", "loss", "holdout", "heights_um")]
        rest = {k: v for k, v in row.items() if k not in ("error", "loss", "holdout", "heights_um", "bands")}
        cells = ["" if one is None else f"{one:.4g}" for one in first]
        cells.append(", ".join(f"{k} {v:.4g}" for k, v in rest.items()))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tabulated("axial", __doc__, "Scans along the beam", rows(), table)
