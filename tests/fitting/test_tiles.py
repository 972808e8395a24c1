"""An object in tiles, shared by several processes, is that of one; what cannot be shared is refused."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as processes
import yaml

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import Team
from phaseloom.fitting.tiles import HALO_MARGIN, Tiling
from phaseloom.physics.patches import gather
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import load
from tests.fitting.scan_in_numpy import make_scan
from tests.reconstruction.doubled import reconstructed

ROOT = Path(__file__).parents[2]
SHAPE = (70, 91)
WINDOW = (16, 13)


def launched(
    count: int, *words: object, folder: Path, module: str = "phaseloom.cli"
) -> subprocess.CompletedProcess[str]:
    """The command line, or another module, in several processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [*start, "-m", module, *map(str, words)]
    return subprocess.run(
        line, cwd=folder, env=told, capture_output=True, text=True, check=False, timeout=600
    )


def draw_corners(count: int = 60, seed: int = 0) -> np.ndarray:
    room = np.array(SHAPE) - np.array(WINDOW) + 1
    return np.random.default_rng(seed).integers(0, room, (count, 2))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_cores_are_the_canvas_once_and_halos_hold_all_windows_of_their_patterns(count):
    corner = draw_corners()
    tiling = Tiling.of(corner, WINDOW, SHAPE, count=count, rank=0)
    covered = np.zeros(SHAPE, int)
    for top, bottom, left, right in tiling.cores:
        covered[top:bottom, left:right] += 1
    assert (covered == 1).all()
    low, high = tiling.bounds()
    assert (low <= corner).all()
    assert (corner <= high).all()
    assert np.ptp(np.bincount(tiling.owners, minlength=count)) <= 1  # as many patterns each
    for core, held in zip(tiling.cores, tiling.held, strict=True):
        assert held[0] <= core[0] < core[1] <= held[1]
        assert held[2] <= core[2] < core[3] <= held[3]


def test_patterns_in_the_same_place_can_be_cut():
    tiling = Tiling.of(np.full((9, 2), 7), WINDOW, SHAPE, count=4, rank=0)
    assert sorted(np.bincount(tiling.owners).tolist()) == [2, 2, 2, 3]


def test_fewer_patterns_than_processes_are_refused():
    with pytest.raises(BadInput, match="tiles: 2 patterns are too few for the tiles of 3 processes"):
        Tiling.of(draw_corners(2), WINDOW, SHAPE, count=3, rank=0)


def test_halos_grow_when_windows_come_to_their_edge_and_not_before():
    corner = draw_corners()
    tiling = Tiling.of(corner, WINDOW, SHAPE, count=4, rank=0)
    room = np.array(SHAPE) - np.array(WINDOW)
    assert tiling.grown((corner + 3).clip(0, room)) is None
    moved = (corner + HALO_MARGIN).clip(0, room)
    grown = tiling.grown(moved)
    assert grown is not None
    assert grown.cores == tiling.cores
    low, high = grown.bounds()
    assert (low <= moved).all()
    assert (moved <= high).all()
    assert grown.grown(moved) is None


def check_laws_in_process(rank: int, count: int, file: str) -> None:
    """What one of several processes has to find; run by all of them together."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    try:
        corner = draw_corners()
        tiling = Tiling.of(corner, WINDOW, SHAPE, count=count, rank=rank)
        generator = torch.Generator().manual_seed(1)
        for dtype in (torch.float32, torch.complex128):
            whole = torch.randn(2, *SHAPE, generator=generator, dtype=dtype)
            windows = torch.randn(len(corner), 2, *WINDOW, generator=generator, dtype=dtype)
            check_windows(tiling, corner, whole)
            check_gradient(tiling, corner, windows)
            check_whole(tiling, whole)
        check_moved(tiling, corner, whole)
    finally:
        torch.distributed.destroy_process_group()


def cut(tiling: Tiling, whole: torch.Tensor) -> torch.Tensor:
    """What a process holds of a field of the whole canvas."""
    top, bottom, left, right = tiling.box
    return whole[..., top:bottom, left:right]


def check_windows(tiling: Tiling, corner: np.ndarray, whole: torch.Tensor) -> None:
    own = np.flatnonzero(tiling.owners == tiling.rank)
    places = torch.as_tensor(corner[own])
    here = places - torch.tensor([tiling.box[0], tiling.box[2]])
    assert torch.equal(gather(cut(tiling, whole), here, WINDOW), gather(whole, places, WINDOW))


def add_windows(field: torch.Tensor, corner: np.ndarray, windows: torch.Tensor) -> torch.Tensor:
    for (y, x), window in zip(corner.tolist(), windows, strict=True):
        field[..., y : y + WINDOW[0], x : x + WINDOW[1]] += window
    return field


def check_gradient(tiling: Tiling, corner: np.ndarray, windows: torch.Tensor) -> None:
    """The sums of all halos are the gradient of all patterns, also where only a batch has touched it."""
    for batch in (np.arange(len(corner)), np.arange(0, len(corner), 9)):
        full = add_windows(windows.new_zeros(2, *SHAPE), corner[batch], windows[batch])
        own = batch[tiling.owners[batch] == tiling.rank]
        mine = add_windows(windows.new_zeros(2, *SHAPE), corner[own], windows[own])
        boxes = [(0, 40, 0, SHAPE[1]), (40, SHAPE[0], 0, 50), (40, SHAPE[0], 50, SHAPE[1])]
        for changed in (None, boxes):
            field = cut(tiling, mine).clone()
            tiling.add_halos(field, changed)
            tiling.copy_halos(field, changed)
            torch.testing.assert_close(field, cut(tiling, full), rtol=1e-5, atol=1e-5)
    outside = cut(tiling, mine).clone()
    tiling.add_halos(outside, [(0, 1, 0, 1)])
    assert torch.equal(outside[..., 2:, :], cut(tiling, mine)[..., 2:, :])


def check_whole(tiling: Tiling, whole: torch.Tensor) -> None:
    """What is gathered from tiles and given to them is the whole."""
    found = tiling.gather(cut(tiling, whole))
    assert (found is None) == (tiling.rank > 0)
    assert found is None or torch.equal(found, whole)
    into = torch.zeros(2, *tiling.size, dtype=whole.dtype)
    tiling.scatter(whole if tiling.rank == 0 else None, into)
    assert torch.equal(into, cut(tiling, whole))


def check_moved(tiling: Tiling, corner: np.ndarray, whole: torch.Tensor) -> None:
    """Wider halos hold what their neighbours have there; what was in old halos does not matter."""
    room = np.array(SHAPE) - np.array(WINDOW)
    grown = tiling.grown((corner + HALO_MARGIN).clip(0, room))
    assert grown is not None
    here = cut(tiling, whole).clone()
    core = here[(..., *tiling.core)].clone()
    here[:] = math.nan
    here[(..., *tiling.core)] = core
    assert torch.equal(grown.moved(here, tiling), cut(grown, whole))


@pytest.mark.medium
@pytest.mark.parametrize("count", [2, 4])
def test_halos_add_up_and_tiles_are_the_whole(tmp_path, count):
    processes.spawn(check_laws_in_process, (count, str(tmp_path / "meet")), nprocs=count)


def write_recipe(folder: Path, case: dict[str, Any], scan: dict[str, Any]) -> Path:
    make_scan(folder / "scan.h5", **scan)
    tree = {"file": "scan.h5", "probe": "stored", "start": "none", "preset": "none", "seed": 3}
    (folder / "run.yaml").write_text(yaml.safe_dump(tree | {"tiles": True, "epochs": 4} | case))
    return folder / "run.yaml"


SLICES = {"pixels": {"slices": 3, "thickness": "12 A"}}
SEPARATE = {"pixels": {"slices": 3, "thickness": "12 A", "kind": "amplitude and phase"}}
POWER = {"frequency": [0.05, 0.1, 0.2, 0.4], "density": [0.4, 0.2, 0.1, 0.02]}

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({"epochs": 12}, {}),
    "slices": (
        {"object": SLICES, "rates": {"thickness": 0.1, "tilts": 0.05, "weights": 0.1}},
        {"slices": 3, "error": 1.0},
    ),
    "filters": (
        {
            "object": SEPARATE,
            "projections": [{"lateral_blur": {"std": 0.5}}, {"missing_wedge": {"beta": 0.5}}, "orthogonal"],
            "rates": {"affine": 0.1},
        },
        {"slices": 3},
    ),
    "prior": ({"found": {"power": POWER}, "object": {"pixels": {"kind": "amplitude and phase"}}}, {}),
    "adam": (
        {
            "optimizer": "adam",
            "object": {"pixels": {"kind": "amplitude and phase"}},
            "penalties": [{"sparse": {"weight": 0.01}}],
        },
        {},
    ),
    "states": (
        {
            "object": {"pixels": {"modes": 2}},
            "batch": {"compact": {"size": 9}},
            "rates": {"background": 0.1},
        },
        {},
    ),
    "far": (
        {
            "object": {"pixels": {"kind": "phase"}},
            "rates": {"positions": 3.0, "affine": 0.5},
            "optimizer": {"gauss_newton": {"position_prior": False}},
            "epochs": 6,
        },
        {"error": 2.0, "grid": False},
    ),
}
"""What a recipe says, and what the scan is like."""


def assert_same(one: Any, several: Any, count: int) -> None:
    assert one["object"].dtype == np.complex128
    assert abs(one["object"] - 1).max() > 0.1  # something was learned
    np.testing.assert_allclose(several["course"], one["course"], rtol=1e-9)
    np.testing.assert_allclose(several["object"], one["object"], atol=1e-8)
    np.testing.assert_allclose(several["probe"], one["probe"], atol=1e-8 * abs(one["probe"]).max())
    np.testing.assert_allclose(several["positions"], one["positions"], atol=1e-9)
    assert len(several["held"]) == count
    assert several["held"].max() < 0.8 * one["held"][0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("plain", marks=pytest.mark.medium),
        *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:]),
    ],
)
def test_nothing_but_rounding_parts_tiles_from_one_process(tmp_path, name):
    recipe = write_recipe(tmp_path, *CASES[name])
    moved = 9.0 if name == "far" else 0.0
    reconstructed(str(recipe), str(tmp_path / "1.npz"), str(moved))
    for count in (2, 4):
        words = recipe, tmp_path / f"{count}.npz", moved
        done = launched(count, *words, folder=ROOT, module="tests.reconstruction.doubled")
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / f"{count}.npz") as several:
            assert_same(one, several, count)
            assert np.array_equal(several["held"], several["begun"]) == (name != "far")  # halos have moved


IN_PARTS = """
import sys
from phaseloom.reconstruction.protocol import Job
from phaseloom.reconstruction.recipe import Reconstruct

folder, last = sys.argv[1], int(sys.argv[2])
job = Job.begin(Reconstruct.from_path("run.yaml"), folder) if len(sys.argv) > 3 else Job.resume(folder)
for epoch in job:
    if epoch.number == last:
        break
"""
"""Epochs of the run in a folder up to one: of a new run, or of one that goes on."""


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_with_the_same_to_the_same_bits(tmp_path):
    write_recipe(tmp_path, {"object": SLICES, "epochs": 8, "holdout": 0.0}, {"slices": 3, "error": 1.0})
    (tmp_path / "parts.py").write_text(IN_PARTS)

    def run(count: int, *words: object) -> None:
        done = launched(count, *words, folder=tmp_path, module="parts")
        assert done.returncode == 0, done.stderr

    run(2, "straight", 99, "new")
    for name, count in (("same", 2), ("more", 3), ("one", 1)):
        run(2, name, 3, "new")
        run(count, name, 99)
    results = {name: load(tmp_path / name / "result.h5") for name in ("straight", "same", "more", "one")}
    straight = results["straight"]
    assert np.array_equal(results["same"].object, straight.object)
    for name in ("more", "one"):
        assert len(results[name].history) == 8
        np.testing.assert_allclose(results[name].object, straight.object, atol=1e-4)
        np.testing.assert_allclose(results[name].positions, straight.positions, atol=1e-3)


@pytest.mark.slow
def test_the_result_of_the_command_line_is_that_of_one_process(tmp_path):
    """With verdict, error bar, advice and figures, which need the whole object."""
    write_recipe(tmp_path, {"object": SLICES, "epochs": 10, "noise": "poisson"}, {"slices": 3})
    for name, count in (("one", 1), ("four", 4)):
        done = launched(
            count, "reconstruct", "run.yaml", "--out", name, "--quiet", "--halves", folder=tmp_path
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("result: ") == 1
    one, four = load(tmp_path / "one" / "result.h5"), load(tmp_path / "four" / "result.h5")
    assert "halves: tiles are not correlated yet" in done.stdout
    assert one.verdict_code == four.verdict_code
    assert one.origin == four.origin
    assert set(one.metrics) == set(four.metrics)
    np.testing.assert_allclose(four.object, one.object, atol=0.02)
    np.testing.assert_allclose(four.coverage, one.coverage, rtol=1e-2)
    assert four.sigma is not None
    np.testing.assert_allclose(np.median(four.sigma), np.median(one.sigma), rtol=1e-2)
    assert (tmp_path / "four" / "phase.png").is_file()


@pytest.mark.medium
def test_a_run_begins_with_the_object_of_a_file(tmp_path):
    first = write_recipe(tmp_path, {"epochs": 3}, {})
    done = launched(1, "reconstruct", first, "--out", "first", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    start = {"object": {"from_file": {"path": "first/result.h5"}}, "epochs": 2}
    recipe = write_recipe(tmp_path, start, {})
    reconstructed(str(recipe), str(tmp_path / "1.npz"))
    done = launched(3, recipe, tmp_path / "3.npz", folder=ROOT, module="tests.reconstruction.doubled")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "1.npz") as one, np.load(tmp_path / "3.npz") as several:
        assert_same(one, several, 3)


@pytest.mark.parametrize(
    ("case", "named"),
    [
        ({"optimizer": {"lbfgs": {}}}, "optimizer: lbfgs"),
        ({"optimizer": "adafactor"}, "optimizer: adafactor"),
        ({"optimizer": "epie"}, "optimizer: epie"),
        ({"object": {"bandlimited": {"pixel": "0.6 A"}}}, "object: bandlimited"),
        ({"levels": 1}, "levels: 1"),
    ],
)
def test_what_sees_the_whole_object_at_once_is_refused(tmp_path, case, named):
    recipe = Reconstruct.from_path(write_recipe(tmp_path, case, {"lines": (3, 4)}))
    with pytest.raises(BadInput, match=f"tiles: {named} cannot be shared in tiles yet: write tiles: false"):
        recipe.scan()


def test_patterns_of_a_batch_go_to_the_process_that_holds_their_windows():
    owners = np.array([0, 0, 1, 2, 2, 1])
    batch = torch.tensor([5, 0, 3, 4])
    shares = [Team(rank, 3).share(batch, owners) for rank in range(3)]
    assert [(part.tolist(), share) for part, share in shares] == [([0], 0.25), ([5], 0.25), ([3, 4], 0.5)]
    part, share = Team(1, 3).share(torch.tensor([0, 3]), owners)
    assert (part.tolist(), share) == ([2], 0.0)  # a pattern that it can model, and that does not count
