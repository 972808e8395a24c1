"""What is refined beside object and probe, on simulated scans whose truth is known.

    python benchmarks/refinement.py data_S.npz data_M.npz [--only columns --only tilt ...] [--out table.json]

The `.npz` files are those of an independent simulator (see `acceptance.py`) with one more key: the
positions of the perfect raster, `pos_nominal_px`, from which the true ones are 0.25 pixel (rms) off.

Slices of size M have lattices of their own, so nothing in its data tells the tilt of the object from a shear
of it (tests/laws/test_gauge.py): what can be measured is the tilt with the shear of the recovered
object against the true one added. The run ``columns`` has a specimen whose atoms stand in columns; its tilt
is told by `projections: upright`. Its thickness, of slices that are all alike, is told weakly: the
run from below ends elsewhere than the one from above.
"""

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from phaseloom.metrics.phase import phase_error
from phaseloom.physics.fourier import frequencies, ramp
from phaseloom.physics.slices import shear_slices as sheared
from phaseloom.reconstruction.compare import compare_with_truth
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

STILL = {"positions": 0, "affine": 0, "weights": 0}
THICK = {
    "optimizer": "adam",
    "batch": {"random": {"size": 16}},
    "shape": {"cosine": {"hold": 0.0}},
    "rates": {"object": 0.005, "probe": 0.005, **STILL},
}
"""Small steps, small batches, rates that fall from the first epoch on: what suits several slices."""
REFINED = {"thickness": 0.004, "tilts": 0.01}


def recipe(path, **more):
    """The parameter file of a run: optics and slices as they are, unless ``more`` says otherwise."""
    data = np.load(path)
    slices, modes = len(data["obj_phase"]), len(data["probe"])
    thing = {"slices": slices, "kind": "phase"} | ({"thickness": f"{data['dz']} A"} if slices > 1 else {})
    optics = {
        "semiangle": f"{data['conv_angle']} mrad",
        "defocus": f"{-data['C10']} A",
        "modes": modes,
    }
    whole = {"holdout": 0.0, "patience": None, "start": "none"}
    return {
        "file": str(path),
        "object": {"pixels": thing},
        "probe": {"focused": optics},
        **whole,
        **more,
    }


def run(tree, numbers):
    """A whole run, and what ``numbers`` says of each of about a dozen epochs."""
    began, job, rows = time.process_time(), Job.begin(Reconstruct.of(tree)), []
    every = -(-tree["epochs"] // 15)
    for epoch in job:
        if epoch.number % every == 0 or epoch.number == tree["epochs"]:
            rows.append({"epoch": epoch.number, "loss": round(epoch.loss, 4), **numbers(job)})
            print(rows[-1], flush=True)
    return {"cpu_s": round(time.process_time() - began, 1), "epochs": rows}


def of_positions(path):
    """Errors of positions in pixels (rms of their length), of the step and of the rotation."""
    data = np.load(path)
    true = data["pos_px"] - data["pos_px"].mean(0)

    def numbers(job):
        found = job.model.scan.angstrom() / float(data["dx"])
        found = found - found.mean(0)
        linear = np.linalg.lstsq(true, found, rcond=None)[0]
        turn = np.degrees(np.arctan2(linear[0, 1] - linear[1, 0], linear[0, 0] + linear[1, 1]))
        stretch = np.linalg.svd(linear)[1] - 1
        return {
            "positions_px": round(float(np.sqrt(((found - true) ** 2).sum(1).mean())), 4),
            "step_percent": (100 * stretch).round(3).tolist(),
            "rotation_deg": round(float(turn), 4),
            "nrmse": round(compare_with_truth(job.result(), data["obj_phase"]).error.nrmse, 4),
        }

    return numbers


def of_tilt(truth):
    """Tilt as modelled and with the shear of the object added; thickness; phase less the shear."""

    def numbers(job):
        result = job.result()
        rows, columns = result.window
        first = np.round(np.array(result.origin) / np.array(result.pixel)).astype(int)
        phase = torch.as_tensor(np.angle(result.object)).double()
        seen = phase[:, rows, columns]
        known = truth[:, rows.start + first[0] :, columns.start + first[1] :]
        known = torch.as_tensor(known[:, : seen.shape[1], : seen.shape[2]].copy()).double()
        slope = shear(seen, known, result.gaps, result.pixel)
        straight = sheared(phase, result.gaps, result.pixel, -slope.atan())[:, rows, columns]
        error = phase_error(straight.sum(0).numpy(), known.sum(0).numpy())
        return {
            "tilt_mrad": (1e3 * result.tilts[0]).round(3).tolist(),
            "with_shear_mrad": (1e3 * (result.tilts[0] + slope.numpy())).round(3).tolist(),
            "gap_A": round(float(np.mean(result.gaps)), 3),
            "nrmse": round(error.nrmse, 4),
            "scaled": round(error.nrmse_scaled, 4),
        }

    return numbers


def shear(found, true, gaps, pixel, rounds=3):
    """The slope (y, x) by which slices, and the shift by which all, agree best with the true ones."""
    depth = torch.tensor(np.concatenate([[0.0], np.cumsum(gaps)]))
    size = torch.tensor(pixel, dtype=torch.float64)
    shape = tuple(found.shape[-2:])
    window = torch.outer(*(torch.hann_window(n, periodic=False, dtype=torch.float64) for n in shape))
    y, x = frequencies(shape, like=found)
    fine = 1 - torch.exp(-2 * (np.pi * 4) ** 2 * (y**2 + x**2))

    def waves(stack):
        return torch.fft.fft2(torch.fft.ifft2(torch.fft.fft2(stack) * fine).real * window)

    move = torch.zeros(2, 2, dtype=torch.float64)  # shift in pixels; slope in 1 / 100

    def amount(move):
        return move[0] + depth[:, None] * 1e-2 * move[1] / size

    def moved(stack, move):
        rows, columns = ramp(-amount(move), shape)
        return torch.fft.ifft2(torch.fft.fft2(stack) * rows * columns).real

    target = waves(true).conj()
    for _ in range(rounds):
        cross = waves(moved(found, move)) * target
        rest = torch.zeros_like(move).requires_grad_()
        solver = torch.optim.LBFGS([rest], max_iter=60, line_search_fn="strong_wolfe")

        def misfit(cross=cross, rest=rest, solver=solver):
            solver.zero_grad()
            rows, columns = ramp(-amount(rest), shape)
            value = -(cross * rows * columns).real.sum() / cross.abs().sum()
            value.backward()
            return value

        solver.step(misfit)
        move = move + rest.detach()
    return 1e-2 * move[1]


def positions(path):
    """From the perfect raster: defaults for one slice, small steps for several."""
    thick = len(np.load(path)["obj_phase"]) > 1
    more = {**THICK, "projections": ["positive"], "epochs": 15} if thick else {"epochs": 40}
    if thick:
        more |= {"noise": "poisson", "rates": {**more["rates"], "positions": 0.03}}
    read = {"npz": {"positions": "pos_nominal_px"}}
    return run(recipe(path, read=read, **more), of_positions(path))


def affine(path):
    """A step 3 % too long and turned by 2 degree, from true positions; all other settings are defaults."""
    prepare = [{"scale": {"factor": 1.03}}, {"rotate": {"angle": "2 deg"}}]
    return run(
        recipe(path, prepare=prepare, rates={"positions": 0, "affine": 0.1}, epochs=60), of_positions(path)
    )


def together(path):
    """The same on top of the perfect raster, positions free as well."""
    prepare = [{"scale": {"factor": 1.03}}, {"rotate": {"angle": "2 deg"}}]
    read = {"npz": {"positions": "pos_nominal_px"}}
    rates = {"affine": 0.1}
    return run(recipe(path, read=read, prepare=prepare, rates=rates, epochs=60), of_positions(path))


def tilt(path, stated=3.0, epochs=15):
    """Tilt 3 mrad and thickness 20 % off, refined with object and probe."""
    data = np.load(path)
    tree = recipe(path, **THICK, projections=["positive"], epochs=epochs)
    return run(wrong(tree, stated, 1.2 * float(data["dz"]), REFINED), of_tilt(data["obj_phase"]))


def thickness(path):
    """Thickness 20 % off, the tilt known."""
    data = np.load(path)
    tree = recipe(path, **THICK, projections=["positive"], epochs=10)
    rates = {"thickness": REFINED["thickness"]}
    return run(wrong(tree, 0.0, 1.2 * float(data["dz"]), rates), of_tilt(data["obj_phase"]))


def columns(lean=(0.0, 0.0), stated=3.0, gap=18.0):
    """Columns of atoms, each a little off its place: tilt and thickness, with columns made upright."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "columns.npz"
        columnar(path, np.array(lean))
        tree = recipe(path, **THICK, projections=["positive", {"upright": {}, "start": 2}], epochs=15)
        return run(wrong(tree, stated, gap, REFINED), of_tilt(np.load(path)["obj_phase"]))


def wrong(tree, tilt, gap, rates):
    """A recipe with a tilt (mrad) and a thickness stated that are refined."""
    tree["object"]["pixels"]["thickness"] = f"{gap} A"
    tree["propagator"] = {"exact": {"tilt": [f"{tilt} mrad", "0 mrad"]}}
    tree["rates"] = {**tree["rates"], **rates}
    return tree


def columnar(path, lean, pixel=0.2, slices=6, gap=15.0):
    """20 x 20 positions on columns of atoms that lean, each atom 0.03 A (rms) off its column."""
    positions = simulate.raster((20, 20), 0.6, jitter=0.05, seed=1)
    positions += 38 * pixel - positions.min(0)
    shape = np.ceil((positions.max(0) + 38 * pixel) / pixel).astype(int)
    rng = np.random.default_rng(3)
    steps = np.arange(-30.0, 60.0, 2.2)
    places = np.stack(np.meshgrid(steps, 0.87 * steps, indexing="ij"), -1).reshape(-1, 2)
    places = places @ np.array([[0.92, -0.39], [0.39, 0.92]]) + rng.normal(0, 0.1, places.shape)
    heights = 0.25 * rng.uniform(0.5, 1, len(places))
    phase = np.empty((slices, *shape))
    for number in range(slices):
        at = places + rng.normal(0, 0.03, places.shape) + np.tan(lean) * gap * number
        y, x = (
            np.exp(-(((np.arange(n) * pixel - c[:, None]) / 0.42) ** 2))
            for n, c in zip(shape, at.T, strict=True)
        )
        phase[number] = np.einsum("n,ny,nx->yx", heights, y, x)
    optics = {"energy": 80e3, "semiangle": 0.025, "defocus": 100.0, "dose": 1e6}
    scan, probe = simulate.electron_scan(phase, pixel, positions, thickness=gap, modes=4, **optics)
    known = {"conv_angle": 25.0, "C10": -100.0, "dz": gap, "dx": pixel, "kv": 80.0}
    np.savez(
        path, meas=np.asarray(scan.counts), obj_phase=phase, probe=probe, pos_px=positions / pixel, **known
    )


def wanted(scans):
    """All runs by name: those of columns, then those that each scan can have."""
    yield "columns", columns
    yield "leaning columns", lambda: columns((2e-3, -1.5e-3), 0.0)
    yield "columns from below", lambda: columns(gap=12.0)
    for path in scans:
        thick = len(np.load(path)["obj_phase"]) > 1
        for kind in (tilt, thickness, positions) if thick else (positions, affine, together):
            yield f"{kind.__name__} {path.stem}", lambda kind=kind, path=path: kind(path)


def main():
    """All of it, as a table in JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", nargs="*", type=Path)
    parser.add_argument("--only", action="append", help="runs whose name holds this")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, call in wanted(given.scans):
        if given.only is None or any(part in name for part in given.only):
            print(name, flush=True)
            rows[name] = call()
    made = {"machine": platform.machine(), "threads": 1, "torch": torch.__version__, "runs": rows}
    text = json.dumps(made, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
