"""What an experiment states wrongly is found with the object: tilt, thickness, positions, step, rotation."""

import math

import numpy as np
import pytest
import torch

from phaseloom.reconstruction.compare import compare_with_truth
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.simulation import simulate

PIXEL, STEP, GAP = 0.2, 0.5, 15.0
OPTICS = {"energy": 80e3, "semiangle": 0.025, "defocus": 100.0, "dose": 1e6}
NOMINAL = {"npz": {"positions": "pos_nominal_px"}}
FIXED = {"positions": 0, "affine": 0, "weights": 0}


def raster(grid, step, window, jitter=0.0):
    margin = (window // 2 + 6) * PIXEL
    return margin + simulate.raster(grid, step, jitter=jitter, seed=1)


def field(positions, window):
    rows, columns = np.ceil((positions.max(0) + (window // 2 + 6) * PIXEL) / PIXEL).astype(int)
    return int(rows), int(columns)


def columns(shape, slices, *, lean=(0.0, 0.0), thermal=0.03, seed=3):
    """Columns of atoms along the beam, or leaning against it; every atom a little off its place."""
    rng = np.random.default_rng(seed)
    size, steps = np.array(shape) * PIXEL, np.arange(-30.0, 60.0, 2.2)
    places = np.stack(np.meshgrid(steps, 0.87 * steps, indexing="ij"), -1).reshape(-1, 2)
    turned = np.array([[0.92, -0.39], [0.39, 0.92]])
    places = places @ turned + rng.normal(0, 0.1, places.shape)
    places = places[((places > -2) & (places < size + 2)).all(1)]
    heights = 0.25 * rng.uniform(0.5, 1, len(places))
    y, x = (np.arange(n) * PIXEL for n in shape)
    out = np.empty((slices, *shape))
    for number in range(slices):
        at = places + rng.normal(0, thermal, places.shape) + np.tan(lean) * GAP * number
        rows, across = (
            np.exp(-(((axis - c[:, None]) / 0.42) ** 2)) for axis, c in zip((y, x), at.T, strict=True)
        )
        out[number] = np.einsum("n,ny,nx->yx", heights, rows, across)
    return out


def stored(where, scan, stated):
    """The scan in a file that knows its true positions and the stated ones."""
    places = {"pos_px": scan.positions / PIXEL, "pos_nominal_px": stated / PIXEL}
    np.savez(where / "scan.npz", meas=np.asarray(scan.counts[:]), dx=PIXEL, kv=80.0, **places)
    return where / "scan.npz"


def job(tree):
    torch.set_num_threads(1)
    begun = Job.begin(Reconstruct.of({"start": "none", "holdout": 0.0, "patience": None, **tree}))
    for _ in begun:
        pass
    return begun


@pytest.fixture(scope="module")
def thin(tmp_path_factory):
    """A thin specimen, and positions that are 0.25 pixel (rms, along each axis) off their raster."""
    where = tmp_path_factory.mktemp("thin")
    true = raster((16, 15), STEP, 48, jitter=0.25 * PIXEL)
    truth = simulate.atoms(field(true, 48), PIXEL, peak=0.6, seed=2)
    scan, _ = simulate.electron_scan(truth, PIXEL, true, window=48, **OPTICS)
    return stored(where, scan, raster((16, 15), STEP, 48)), true


def run_thin(file, prepare=(), **more):
    tree = {"file": str(file), "prepare": list(prepare), "noise": "poisson", **more}
    tree["object"] = {"pixels": {"kind": "phase"}}
    tree["probe"] = {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 1}}
    return job(tree)


def mapped(found, true):
    """The linear map from true to found positions, and its rotation in degree."""
    found, true = found - found.mean(0), true - true.mean(0)
    linear = np.linalg.lstsq(true, found, rcond=None)[0]
    turn = math.degrees(math.atan2(linear[0, 1] - linear[1, 0], linear[0, 0] + linear[1, 1]))
    return linear, turn


class TestPositions:
    def test_off_their_raster_are_found_to_a_twentieth_of_a_pixel(self, thin):
        file, true = thin
        done = run_thin(file, read=NOMINAL, epochs=30)
        off = (done.model.scan.angstrom() - true) / PIXEL
        assert np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()) < 0.05

    @pytest.mark.parametrize(("step", "angle"), [(1.03, 2.0), (0.97, -2.0)])
    def test_of_a_wrong_step_and_rotation_are_set_right(self, thin, step, angle):
        file, true = thin
        prepare = [{"scale": {"factor": step}}, {"rotate": {"angle": f"{angle} deg"}}]
        done = run_thin(file, prepare, epochs=20, rates={"positions": 0, "affine": 0.1})
        linear, turn = mapped(done.model.scan.angstrom(), true)
        assert np.abs(np.linalg.svd(linear)[1] - 1).max() < 1e-3
        assert abs(turn) < 0.1

    def test_of_a_wrong_raster_are_found_together_with_its_step_and_rotation(self, thin):
        file, true = thin
        prepare = [{"scale": {"factor": [1.05, 0.97]}}, {"rotate": {"angle": "3 deg"}}]
        done = run_thin(file, prepare, read=NOMINAL, epochs=30)
        off = (done.model.scan.angstrom() - true) / PIXEL
        assert np.sqrt(((off - off.mean(0)) ** 2).sum(1).mean()) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("true", "stated"), [((0.0, 0.0), (3.0, 0.0)), ((2.0, -1.5), (0.0, 0.0))])
def test_object_probe_tilt_and_thickness_are_found_together(tmp_path, true, stated):
    """Slices that are all alike tell the thickness weakly: it ends a little nearer to where it began."""
    positions = raster((20, 20), 0.6, 64)
    truth = columns(field(positions, 64), 6, lean=1e-3 * np.array(true))
    scan, _ = simulate.electron_scan(truth, PIXEL, positions, thickness=GAP, modes=4, **OPTICS)
    done = job(
        {
            "file": str(stored(tmp_path, scan, positions)),
            "object": {"pixels": {"slices": 6, "kind": "phase", "thickness": f"{1.2 * GAP} A"}},
            "probe": {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 4}},
            "propagator": {"exact": {"tilt": [f"{angle} mrad" for angle in stated]}},
            "projections": ["positive", {"upright": {}, "start": 2}],
            "optimizer": "adam",
            "batch": {"random": {"size": 16}},
            "shape": {"cosine": {"hold": 0.0}},
            "rates": {"object": 0.005, "probe": 0.005, "thickness": 0.004, "tilts": 0.01, **FIXED},
            "epochs": 15,
        }
    )
    result = done.result()
    np.testing.assert_allclose(1e3 * result.tilts[0], true, atol=0.1)
    np.testing.assert_allclose(result.gaps, GAP, rtol=0.05)
    assert compare_with_truth(result, truth).error.nrmse < 0.18
