"""What a run needs is told before it runs, and what would go wrong with it; a sound run is left in peace."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml

from phaseloom.data.formats import native
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.reconstruction import check
from phaseloom.reconstruction import preflight as foresight
from phaseloom.reconstruction.check import describe_run, estimate_run
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs import memory as _memory
from phaseloom.simulation import simulate

PIXEL, WINDOW, ENERGY = 0.2, 64, 80e3


def electrons(*, step: float = 0.6, dose: float = 1e6, defocus: float = 100.0) -> Scan4D:
    """As in the demonstration: a thick crystal of atoms, one scan of 64 patterns."""
    margin = (WINDOW // 2 + 6) * PIXEL
    positions = simulate.raster((8, 8), step, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / PIXEL).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), PIXEL, slices=6, peak=0.25, seed=2)
    knobs: dict[str, Any] = {"energy": ENERGY, "semiangle": 0.025, "defocus": defocus, "modes": 2}
    return simulate.electron_scan(truth, PIXEL, positions, thickness=12.0, dose=dose, **knobs)[0]


SOUND = electrons()
SETTINGS: dict[str, Any] = {
    "file": "scan.h5",
    "object": {"pixels": {"slices": 6, "thickness": "12 A", "kind": "phase"}},
    "probe": {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 2}},
    "start": "none",
}


def warned(scan: Scan4D = SOUND, /, **changes: Any) -> list[str]:
    return foresight.warn_before_run(Job(Reconstruct.of({**SETTINGS, **changes}), scan, None, None))


def sliced(count: int, gap: str, **knobs: Any) -> dict[str, Any]:
    return {"pixels": {"slices": count, "thickness": gap, "kind": "phase", **knobs}}


def focused(**knobs: Any) -> dict[str, Any]:
    return {"focused": {"semiangle": "25 mrad", "defocus": "100 A", "modes": 2, **knobs}}


def dark(scan: Scan4D, by: float) -> Scan4D:
    counts = np.random.default_rng(3).binomial(np.asarray(scan.counts).astype(int), by)
    return replace(scan, counts=counts.astype(np.float32))


def moved(scan: Scan4D, by: int) -> Scan4D:
    return replace(scan, counts=np.roll(np.asarray(scan.counts), by, 1))


def cropped(scan: Scan4D, to: int) -> Scan4D:
    """Fewer pixels of the detector, so less angle and larger pixels of the object."""
    first = (WINDOW - to) // 2
    counts = np.asarray(scan.counts)[:, first : first + to, first : first + to]
    geometry = replace(scan.geometry, shape=(to, to))
    return replace(scan, counts=counts, geometry=geometry, mask=np.ones((to, to), bool))


def standing(planes: int) -> Scan4D:
    """Patterns of one place, in planes that are a depth of focus apart; their counts do not matter."""
    heights = np.arange(8) % planes * 67.0
    return replace(SOUND.select(np.arange(8)), positions=np.full((8, 2), 10.0), heights=heights)


FROZEN: dict[str, Any] = {"rates": {"probe": 0.0}}
COMPLEX = {"pixels": {"kind": "complex"}}


def hazy(scan: Scan4D) -> Scan4D:
    """A tenth of the counts far out."""
    extra = np.zeros((WINDOW, WINDOW))
    y, x = np.indices(extra.shape) - WINDOW // 2
    extra[np.hypot(y, x) > 24] = 0.1 * float(np.asarray(scan.counts)[0].sum()) / 2200
    return replace(scan, counts=(np.asarray(scan.counts) + extra.round()).astype(np.float32))


def test_a_sound_run_is_left_in_peace() -> None:
    assert warned() == []


@pytest.mark.parametrize(
    ("kind", "scan", "changes"),
    [
        ("window", SOUND, {"probe": focused(defocus="280 A")}),
        ("window", SOUND, {"object": sliced(6, "60 A")}),
        ("overlap", replace(SOUND, positions=SOUND.positions * 8), {}),
        ("overlap", replace(SOUND, positions=SOUND.positions * 4), {"probe": focused(defocus="0 A")}),
        ("semiangle", SOUND, {"probe": focused(semiangle="21 mrad")}),
        ("aperture", cropped(SOUND, 16), {"object": "pixels"}),
        ("dose", dark(SOUND, 2e-4), {}),
        ("probe modes", dark(SOUND, 1e-3), {}),
        ("free numbers", SOUND.select(np.arange(8)), {"object": sliced(6, "12 A", kind="complex", modes=3)}),
        ("flight", SOUND, {"object": sliced(2, "70 A")}),
        ("band", hazy(SOUND), {}),
        ("slices", SOUND, {"object": sliced(20, "2 A")}),
        ("slices", SOUND, {"object": sliced(2, "200 A")}),
        ("orientation", replace(SOUND, oriented=False), {}),
        ("rates", SOUND, {"rates": {"object": 2.0, "probe": 3}}),
        ("levels", SOUND, {"levels": 3}),
        ("centre", moved(SOUND, 3), {}),
        ("disk", moved(SOUND, 1), {}),
        ("planes", standing(1), {}),
        ("planes", standing(2), {"object": COMPLEX, **FROZEN}),
        ("planes", standing(8), {"axial": False, "object": COMPLEX, **FROZEN}),
        ("planes", standing(8), {}),
    ],
)
def test_what_will_go_wrong_is_said_with_a_number_and_a_remedy(
    kind: str, scan: Scan4D, changes: dict[str, Any]
) -> None:
    said = [line for line in warned(scan, **changes) if line.startswith(f"{kind}: ")]
    assert len(said) == 1, warned(scan, **changes)
    assert any(letter.isdigit() for letter in said[0]) or kind == "orientation"
    assert said[0].endswith(".")
    assert said[0].count(". ") >= 1


@pytest.mark.parametrize(
    ("scan", "changes"),
    [
        (standing(8), FROZEN),
        (standing(8), {"probe": {"aberrated": {"semiangle": "25 mrad", "defocus": "100 A"}}}),
        (standing(1), {"object": {"pixels": {"kind": "phase"}}, **FROZEN}),
        (standing(1), {"rates": {"probe": 0.0, "object": 0.0}}),
        (replace(SOUND, heights=np.zeros(64)), {}),
        (replace(SOUND, heights=np.arange(64.0) % 2 * 67), {}),
    ],
)
def test_planes_enough_and_steps_to_the_side_are_left_in_peace(scan: Scan4D, changes: dict[str, Any]) -> None:
    assert not [line for line in warned(scan, **changes) if line.startswith("planes: ")]


def shot(distance: float, fine: float) -> Scan4D:
    """One pattern of a known probe, in a far or a near field; its angles reach a share of the detector's."""
    rng, y, x = np.random.default_rng(0), *(np.indices((32, 32)) - 16)
    pupil = (np.hypot(y, x) < 16 * fine) * np.exp(2j * np.pi * rng.random((32, 32)))
    focus = {"distance": distance, "focus": math.inf} if distance else {}
    geometry = Geometry(wavelength=1.0, shape=(32, 32), angle=(1e-4, 1e-4), **focus)
    wave = 1e3 * np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    some = rng.poisson(9, (1, 32, 32))
    return Scan4D(counts=some, positions=np.zeros((1, 2)), geometry=geometry, probe=wave[None])


WIDE = {"bandlimited": {"pixel": "700 A"}}


def test_coarse_pixels_of_the_object_are_fewer_numbers() -> None:
    few, probe = SOUND.select(np.arange(12)), focused(modes=1)
    fine, coarse = ({"bandlimited": {"pixel": pixel}} for pixel in (f"{PIXEL} A", f"{4 * PIXEL} A"))
    told = [
        any(line.startswith("free numbers") for line in warned(few, object=o, probe=probe))
        for o in (fine, coarse)
    ]
    assert told == [True, False]


@pytest.mark.parametrize(
    ("distance", "fine", "thing", "said"),
    [
        (0.0, 0.9, WIDE, ""),
        (0.0, 0.1, WIDE, "and a known probe with detail as fine"),
        (0.0, 0.9, {"bandlimited": {"pixel": "400 A"}}, "Take object pixels of 46.9 nm or more"),
        (0.0, 0.9, COMPLEX, "steps to the side"),
        (1e7, 0.9, COMPLEX, "Take 8 heights"),
        (1e7, 0.9, {"pixels": {"kind": "phase"}}, ""),
    ],
)
def test_one_pattern_is_enough_where_the_probe_is_known_and_the_object_has_few_numbers(
    distance: float, fine: float, thing: Any, said: str
) -> None:
    knobs = {"object": thing, "probe": {"stored": {"modes": 1}}, "start": "none", **FROZEN}
    lines = [one for one in warned(shot(distance, fine), **knobs) if one.startswith("planes: ")]
    assert said in "".join(lines)
    assert bool(lines) == bool(said)


def test_a_start_settles_the_orientation_before_the_run() -> None:
    job = Job(Reconstruct.of(SETTINGS), replace(SOUND, oriented=False), None, None)
    assert foresight.warn_before_run(job, started=True) == []


def test_a_beam_whose_defocus_is_yet_to_be_found_is_judged_by_its_speckles() -> None:
    """In focus it would be far smaller than the steps."""
    wide = replace(SOUND, positions=SOUND.positions * 4)
    job = Job(Reconstruct.of({**SETTINGS, "probe": focused(defocus="0 A")}), wide, None, None)
    assert any("the probe being" in line for line in foresight.warn_before_run(job))
    assert not any("the probe being" in line for line in foresight.warn_before_run(job, started=True))


@pytest.mark.parametrize(
    ("noise", "beam", "told"),
    [
        ("amplitude", "electron", True),
        ({"amplitude": {"floor": 0.375}}, "electron", False),
        ("poisson", "electron", False),
        ("amplitude", "photon", False),
    ],
)
def test_amplitudes_of_few_counts_are_warned_of(noise: Any, beam: Any, told: bool) -> None:
    few = replace(SOUND, counts=np.random.default_rng(0).binomial(SOUND.counts.astype(int), 1e-3))
    few = replace(few, geometry=replace(SOUND.geometry, beam=beam))
    lines = [line for line in warned(few, noise=noise) if line.startswith("noise: ")]
    assert bool(lines) == told
    assert all("in a bright pixel" in line and "noise: poisson" in line for line in lines)


def test_hot_pixels_do_not_widen_the_beam_that_is_judged(tmp_path) -> None:
    """Four of them made a beam that filled 108 % of the detector's half width; the run masks them."""
    rng = np.random.default_rng(0)
    counts = np.asarray(SOUND.counts).astype(np.uint32)
    for y, x in ((3, 50), (60, 9), (32, 5), (55, 55)):
        counts[:, y, x] = rng.poisson(40_000, len(counts))
    geometry = replace(SOUND.geometry, beam="photon")
    native.write(replace(SOUND, counts=counts, geometry=geometry), tmp_path / "hot.h5")
    tree = {"file": str(tmp_path / "hot.h5"), "start": "none", "epochs": 2}
    needs = estimate_run(Reconstruct.of(tree))
    assert not [line for line in needs.warnings if line.startswith(("aperture", "hot pixels"))]
    assert "4 hot" in needs.lines["bad pixels"]
    masked = estimate_run(Reconstruct.of(tree | {"mask": "none"}))
    assert [line for line in masked.warnings if line.startswith("aperture")]


def test_positions_off_the_canvas_are_named() -> None:
    job = Job(Reconstruct.of(SETTINGS), SOUND, None, None)
    with torch.no_grad():
        job.model.scan.offsets[3] = 500.0
    assert [line.split(",")[0] for line in foresight.warn_before_run(job)] == [
        "positions: 1 of 64 lie beyond the object's canvas. Check the unit and the step of the positions"
    ]


def test_a_ledger_counts_storages_once_until_they_are_freed() -> None:
    old = torch.ones(100)
    with _memory.Ledger() as ledger:
        old.mul_(2)
        view = (old + 1)[10:20]
        assert ledger.now == 400
        again = view.reshape(2, 5)
        del view, again
        assert (ledger.now, ledger.most) == (0, 400)


def test_a_ledger_sees_what_differentiation_keeps() -> None:
    x = torch.ones(1000, requires_grad=True)
    with _memory.Ledger() as ledger:
        y = (x.exp().exp()).sum()  # keeps both exponentials
        assert ledger.now == 2 * 4000 + 4
        y.backward()
        assert x.grad is not None
        assert ledger.now == 4000 + 4


def built(count: int, *, each: bool) -> tuple[int, int]:
    """Bytes of tensors at most while a job of so many patterns is built and one batch is modelled."""
    rng = np.random.default_rng(0)
    geometry = Geometry(wavelength=0.0418, shape=(24, 24), angle=(8.7e-3, 8.7e-3), beam="electron")
    counts = rng.poisson(3, (count, 24, 24)).astype(np.uint8)
    scan = Scan4D(counts=counts, positions=rng.random((count, 2)) * 5, geometry=geometry)
    changes = {"object": sliced(2, "20 A"), "propagator": {"exact": {"each": each}}, "rates": {"tilts": 0.01}}
    with _memory.Ledger() as ledger:
        job = Job(Reconstruct.of({**SETTINGS, **changes}), scan, None, None)
    with _memory.Ledger() as batch:
        job.level.likelihood(torch.arange(8))["noise"].backward()
    return ledger.now, batch.most


def test_a_tilt_for_each_position_costs_two_numbers_and_no_window() -> None:
    (model, batch), (longer, same) = built(500, each=True), built(1000, each=True)
    (plain, _), (twice, _) = built(500, each=False), built(1000, each=False)
    assert (longer - twice) - (model - plain) == 500 * 2 * 4
    assert same - batch < 1e-3 * 500 * 24 * 24 * 8 * 50


PEAK = """
import sys
from phaseloom.reconstruction.check import estimate_run
from phaseloom.reconstruction.recipe import Reconstruct
print("peak", estimate_run(Reconstruct.from_path(sys.argv[1])).peak)
"""
RUN = """
import sys
from phaseloom.cli import main
sys.argv = ["phaseloom", "reconstruct", sys.argv[1], "--out", sys.argv[2], "--quiet"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
text = open("/proc/self/status").read()
print("peak", int(text.split("VmHWM:")[1].split()[0]) * 1024)
"""


def told(program: str, *words: object) -> float:
    # glibc keeps freed blocks in its arenas, up to a fifth of what is in use and other ones in every run
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    call = [sys.executable, "-c", program, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split("peak ")[1])


def stored(folder: Path, grid: tuple[int, int], size: int, **read: Any) -> dict[str, Any]:
    """The part of a parameter file that names an HDF5 file of disks with noise."""
    y, x = np.indices((size, size)) - size // 2
    rate = np.where(np.hypot(y, x) < size / 8, 40.0, 0.3)
    count = grid[0] * grid[1]
    some = np.random.default_rng(0).poisson(rate, (count, size, size)).astype(np.uint16)
    with h5py.File(folder / "data.h5", "w") as file:
        file.create_dataset("frames", data=some, chunks=(1, size, size))
    knobs = {"energy": "80 keV", "pixel": "0.2 A", "step": "0.5 A", "grid": list(grid), **read}
    return {"file": str(folder / "data.h5"), "read": {"hdf5": knobs}, "epochs": 2}


def single(folder: Path) -> dict[str, Any]:
    """One slice, one mode, and an automatic start."""
    return stored(folder, (16, 16), 64) | {"probe": focused(modes=1), "start": {"sweep": {"rungs": [2, 1]}}}


def thick(folder: Path) -> dict[str, Any]:
    """Six slices, four modes, windows of 128 pixels."""
    return stored(folder, (16, 16), 128) | {
        "object": {"pixels": {"slices": 6, "thickness": "15 A"}},
        "probe": focused(modes=4),
        "start": "none",
        "batch": {"random": {"size": 32}},
    }


def mixed(folder: Path) -> dict[str, Any]:
    """Two states of the object, a tilt for each position, a wide canvas, patterns streamed."""
    return stored(folder, (30, 30), 64, step="3 A") | {
        "object": {"pixels": {"slices": 3, "thickness": "10 A", "modes": 2}},
        "probe": focused(),
        "propagator": {"exact": {"each": True, "tilt": ["1 mrad", "0 mrad"]}},
        "rates": {"tilts": 0.01},
        "start": "none",
        "batch": {"random": {"size": 16}},
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("setup", [single, thick, mixed])
def test_the_peak_is_told_within_fifteen_per_cent(setup: Any, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(setup(tmp_path)))
    foreseen = told(PEAK, tmp_path / "run.yaml")
    measured = told(RUN, tmp_path / "run.yaml", tmp_path / "out")
    assert foreseen == pytest.approx(measured, rel=0.15)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    native.write(SOUND, tmp_path / "scan.h5")
    return tmp_path / "scan.h5"


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": {"sparse": {"size": 8, "accumulate": 3}}},
        {"optimizer": "lbfgs", "holdout": 0},
        {"projections": ["orthogonal"], "rates": {"positions": {"rate": 0.02, "start": 40}}},
    ],
)
def test_whatever_a_run_does_is_tried(file: Path, changes: dict[str, Any]) -> None:
    seen = estimate_run(Reconstruct.of({**SETTINGS, "file": str(file), **changes}))
    assert 0 < seen.seconds < 1e3
    assert seen.peak > 1e8
    assert seen.lines["patterns"] == "64 of 64x64, uint32"
    assert "of the optimiser" in seen.lines["memory of parameters"]


def test_pieces_of_a_batch_are_counted_together(file: Path) -> None:
    pieces = {"batch": {"random": {"size": 8, "accumulate": 3}}, "holdout": 0}
    lines = describe_run(Reconstruct.of({**SETTINGS, "file": str(file), **pieces}))
    assert lines["batches per epoch"] == "3 of 22 patterns in 3 pieces"


def test_counts_weigh_only_in_memory(tmp_path: Path) -> None:
    counts = np.ones((3, 4, 5), np.uint16)
    np.save(tmp_path / "counts.npy", counts)
    assert check._inside(counts[1:]) == 2 * 4 * 5 * 2
    assert check._inside(np.load(tmp_path / "counts.npy", mmap_mode="r")[1:]) == 0
    assert check._inside(native.read) == 0


def test_a_loss_that_breaks_down_at_once_is_told(file: Path) -> None:
    wild = {"object": "pixels", "optimizer": "adam", "rates": {"object": 1e30}}
    seen = estimate_run(Reconstruct.of({**SETTINGS, "file": str(file), **wild}))
    assert any(line.startswith("trial: ") for line in seen.warnings)


def test_a_run_that_does_not_fit_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_memory, "available", lambda: 5e6)
    monkeypatch.setattr(_memory, "resident", lambda: 1e6)
    seen = estimate_run(Reconstruct.of({**SETTINGS, "file": str(file)}))
    assert any(line.startswith("memory: ") and "smaller batches" in line for line in seen.warnings)


def focused_disks(step: float) -> Scan4D:
    """Bright disks of a beam whose defocus nobody states; the first guess of its probe is in focus."""
    rng = np.random.default_rng(1)
    y, x = np.indices((48, 48)) - 24
    disk = np.hypot(y, x) < 12
    shade = 1 + 0.1 * rng.normal(size=(80, 48, 48))
    counts = rng.poisson(20 * disk * shade.clip(0)).astype(np.uint16)
    geometry = Geometry(wavelength=0.0251, shape=(48, 48), angle=(1.5e-3, 1.5e-3), beam="electron")
    positions = np.indices((8, 10)).reshape(2, -1).T * step
    return Scan4D(counts=counts, positions=positions, geometry=geometry, grid=(8, 10))


@pytest.mark.medium
def test_the_overlap_of_a_beam_that_is_not_found_yet_decides_nothing(tmp_path, caplog):
    native.write(focused_disks(2.0), tmp_path / "scan.h5")
    estimate_run(Reconstruct.of({"file": str(tmp_path / "scan.h5"), "epochs": 2}))
    assert "overlap" not in caplog.text
    stated = {"probe": {"focused": {"semiangle": "18 mrad", "defocus": "0 A"}}, "start": "none"}
    estimate_run(Reconstruct.of({"file": str(tmp_path / "scan.h5"), "epochs": 2, **stated}))
    assert "beams overlap so little that no pattern is held out" in caplog.text
