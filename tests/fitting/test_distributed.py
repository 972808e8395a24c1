"""Several processes at one training take the steps of one; what they cannot share is said."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing as processes
import yaml

from phaseloom.data.counts import list_own_patterns
from phaseloom.data.formats import native
from phaseloom.embedding.evaluate import finish_training
from phaseloom.embedding.train import Autoencode, AutoencoderTraining
from phaseloom.errors import BadInput
from phaseloom.fitting import distributed as teams
from phaseloom.fitting.distributed import Team
from phaseloom.learning import weight_files as pretrained
from phaseloom.reconstruction import protocol as job
from phaseloom.reconstruction.half_data_frc import halves
from phaseloom.reconstruction.protocol import calibrate
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.pairs import underwater
from phaseloom.restoration.train import Restore, RestorerTraining
from phaseloom.result import load
from phaseloom.retrieval import linear_fit as estimate
from phaseloom.retrieval.recipe import Train
from phaseloom.retrieval.trainer import RetrievalTraining
from phaseloom.runs import scan_recipe as scanned
from phaseloom.simulation import simulate
from tests.reconstruction.doubled import reconstructed

ROOT = Path(__file__).parents[2]

TREE = {
    "model": {"small": {"width": 16, "depth": 1, "heads": 2, "window": 6}},
    "microscope": {"fixed": {"scan": [8, 8]}},
    "scans": 6,
    "unseen": 2,
    "views": 11,
    "batch": 5,
    "pieces": 3,
    "losses": ["contrast", "edges"],
}
"""The last batch has a single view, which leaves the second process without any."""


def launched(*words: object, folder: Path, module: str = "phaseloom.cli") -> subprocess.CompletedProcess[str]:
    """The command line, or another module, in two processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [*start, "-m", module, *map(str, words)]
    return subprocess.run(
        line, cwd=folder, env=told, capture_output=True, text=True, check=False, timeout=600
    )


def course(folder: Path) -> torch.Tensor:
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    told = [(event["loss"], event["holdout"]) for event in events]  # the last ones learn from all patterns
    return torch.tensor([[math.nan if value is None else value for value in pair] for pair in told])


@pytest.mark.parametrize(
    ("epochs", "optimizer"),
    [
        (2, "adamw"),
        pytest.param(20, "adamw", marks=pytest.mark.slow),
        pytest.param(3, "lbfgs", marks=pytest.mark.slow),
    ],
)
def test_two_processes_take_the_course_of_one(tmp_path, epochs, optimizer):
    clip = {} if optimizer == "adamw" else {"clip": None}
    tree = {**TREE, "epochs": epochs, "optimizer": optimizer, **clip}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    done = launched("train", "patches", "train.yaml", "--out", "two", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network: ") == 1  # one of them speaks
    alone = RetrievalTraining.begin(Train.of({**tree, "device": "cpu"}), tmp_path / "one")
    for _ in alone:
        pass
    rtol = 2e-5 if optimizer == "adamw" else 1e-3  # a line search multiplies what the order of sums rounds
    torch.testing.assert_close(course(tmp_path / "two"), course(tmp_path / "one"), rtol=rtol, atol=0)
    assert (tmp_path / "two" / "net.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [2, 20])
def test_two_processes_restore_as_one(tmp_path, epochs):
    underwater.save_pairs(tmp_path / "sea", size=24, train=5, test=1)
    sizes = {"widths": [4, 8], "blocks": [1, 1], "heads": [1, 2], "refine": 0}
    tree = {"data": ["sea"], "model": {"recommended": sizes}, "crops": 16, "batch": 3, "epochs": epochs}
    (tmp_path / "restore.yaml").write_text(yaml.safe_dump(tree | {"validation": 0.4, "pieces": 2}))
    done = launched("train", "restorer", "restore.yaml", "--out", "two", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network: two") == 1
    for _ in RestorerTraining.begin(Restore.from_path(tmp_path / "restore.yaml"), tmp_path / "one"):
        pass
    torch.testing.assert_close(course(tmp_path / "two"), course(tmp_path / "one"), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_three_steps_and_a_resumed_one_are_done_by_two_processes(tmp_path):
    scans = {"microscope": {"fixed": {"scan": [16, 16]}}, "views": 3, "batch": 2}
    tree = {**TREE, **scans, "stitching": {"residual": {"width": 4, "depth": 1}}, "epochs": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(tree))
    done = launched("train", "retrieval", "train.yaml", "--out", "all", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    last = tmp_path / "all" / "3-end-to-end"
    assert (last / "net.safetensors").is_file()
    recipe = last / "run.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 2"))
    done = launched("train", "end-to-end", last, "--resume", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(course(last)) == 2


@pytest.mark.slow
def test_two_processes_simulate_together_what_a_linear_network_is_solved_from(tmp_path):
    few = {"scans": 3, "unseen": 2, "microscope": {"fixed": {"scan": [8, 8]}}, "model": "linear"}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(few))
    done = launched("train", "linear", "train.yaml", "--out", "two", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network: ") == 1
    estimate.fit_linear_network(Train.from_path(tmp_path / "train.yaml"), tmp_path / "one")
    one, two = (pretrained.load_network(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, msg=name)


def electrons(folder: Path) -> dict[str, Any]:
    """A scan of 12 x 12 patterns of 24 x 24 pixels in a file, and a recipe for it."""
    margin = 15 * 0.2
    positions = simulate.raster((12, 12), 0.8, jitter=0.05, seed=1)
    positions += margin - positions.min(0)
    rows, columns = np.ceil((positions.max(0) + margin) / 0.2).astype(int)
    truth = simulate.atoms((int(rows), int(columns)), 0.2, peak=0.5, seed=2)
    optics = {"energy": 80e3, "semiangle": 0.04, "defocus": 60.0, "window": 24}
    scan, _ = simulate.electron_scan(truth, 0.2, positions, **optics, dose=1e5)
    native.write(scan, folder / "scan.h5")
    probe = {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 2}}
    rates = {"object": 0.2, "probe": 0.2, "positions": 0.2}
    return {"file": "scan.h5", "start": "none", "probe": probe, "rates": rates, "seed": 3}


CASES = {
    "quick": {"epochs": 3},
    "long": {"epochs": 8},
    "adam": {"epochs": 3, "optimizer": "adam", "penalties": [{"sparse": {"weight": 0.01}}]},
    "sparse": {"epochs": 3, "batch": {"sparse": {"size": 7}}, "object": {"pixels": {"kind": "phase"}}},
}


def test_each_process_keeps_its_patterns_and_those_that_all_look_at(tmp_path, monkeypatch):
    electrons(tmp_path)
    scan = native.read(tmp_path / "scan.h5")
    monkeypatch.setattr(scanned, "LOOKED_AT", (5,))
    kept = []
    for rank in range(3):
        monkeypatch.setattr(scanned, "team", lambda rank=rank: Team(rank, 3))
        part = scanned.keep_part_of_process(scan).counts
        kept.append(list_own_patterns(part))
        assert len(kept[-1]) <= len(part.rows) <= len(kept[-1]) + 10
        np.testing.assert_array_equal(part[kept[-1]], scan.counts[kept[-1]])
        with pytest.raises(LookupError, match="kept by another process"):
            part[np.setdiff1d(np.arange(len(scan)), np.flatnonzero(part.place >= 0))]
    np.testing.assert_array_equal(np.sort(np.concatenate(kept)), np.arange(len(scan)))
    assert max(map(len, kept)) < 0.5 * len(scan)


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_run_and_leaves_its_last_checkpoint(tmp_path):
    tree = electrons(tmp_path) | {"epochs": 400}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "phaseloom.cli", "reconstruct", "run.yaml", "--out", "two", "--quiet"]
    told = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.Popen(words, cwd=tmp_path, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    events = tmp_path / "two" / "events.jsonl"
    for _ in range(1200):
        if events.is_file() and len(events.read_text().splitlines()) > 2:
            break
        time.sleep(0.1)
    ranks = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode
    assert b"SIGKILL" in said
    before = len(events.read_text().splitlines())
    recipe = tmp_path / "two" / "run.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 400", f"epochs: {before + 2}"))
    done = launched("reconstruct", "two", "--resume", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert before <= len(events.read_text().splitlines()) <= before + 2
    assert load(tmp_path / "two" / "result.h5").metrics["loss"] > 0


@pytest.mark.parametrize("name", ["quick", *(pytest.param(n, marks=pytest.mark.slow) for n in [*CASES][1:])])
def test_two_processes_reconstruct_as_one(tmp_path, name):
    tree = electrons(tmp_path) | CASES[name]
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    done = launched("reconstruct", "run.yaml", "--out", "two", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result: ") == 1
    one = job.Job.begin(Reconstruct.from_path(tmp_path / "run.yaml"), tmp_path / "one")
    for _ in one:
        pass
    two, one = course(tmp_path / "two"), course(tmp_path / "one")
    torch.testing.assert_close(two[:3], one[:3], rtol=1e-4, atol=0)
    torch.testing.assert_close(two, one, rtol=1e-2, atol=0, equal_nan=True)  # rounding grows
    torch.testing.assert_close(two[-1, 0], one[-1, 0], rtol=1e-3, atol=0)
    alone, both = load(tmp_path / "one" / "result.h5"), load(tmp_path / "two" / "result.h5")
    apart = abs(both.object - alone.object)
    few, most = (0.03, 0.3) if name == "long" else (2e-3, 0.05)
    assert np.quantile(apart, 0.999) < few  # Adam makes a whole step of what is but rounding
    assert apart.max() < most
    np.testing.assert_allclose(both.positions, alone.positions, atol=1e-3)
    for number, value in alone.metrics.items():
        assert both.metrics[number] == pytest.approx(value, rel=1e-2 if name == "long" else 1e-3), number
    done = launched("reconstruct", "two", "--resume", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_nothing_but_rounding_parts_the_courses_of_one_and_two_processes(tmp_path):
    """Over 20 epochs rounding grows a thousandfold; in double precision that is still nothing."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(electrons(tmp_path) | {"epochs": 20}))
    words = tmp_path / "run.yaml", tmp_path / "two.npz"
    done = launched(*words, folder=ROOT, module="tests.reconstruction.doubled")
    assert done.returncode == 0, done.stderr
    reconstructed(*map(str, (tmp_path / "run.yaml", tmp_path / "one.npz")))
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["object"].dtype == np.complex128
        np.testing.assert_allclose(two["course"], one["course"], rtol=1e-9)
        np.testing.assert_allclose(two["object"], one["object"], atol=1e-8)
        np.testing.assert_allclose(two["positions"], one["positions"], atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "off"),
    [
        ({"epochs": 20, "optimizer": "sgd", "rate": 0.01}, 1e-5),
        (
            {"epochs": 2, "halves": True, "turned": True},
            1e-3,
        ),  # Adam makes a whole step of what is but rounding
    ],
)
def test_two_processes_embed_as_one(tmp_path, more, off):
    electrons(tmp_path)
    tree = {"file": "scan.h5", "model": {"recommended": {"latent_dim": 4}}, "block": 3, "batch": 10, **more}
    (tmp_path / "embed.yaml").write_text(yaml.safe_dump(tree))
    done = launched("train", "autoencoder", "embed.yaml", "--out", "two", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("network: two") == 1
    one = AutoencoderTraining.begin(Autoencode.from_path(tmp_path / "embed.yaml"), tmp_path / "one")
    for _ in one:
        pass
    torch.testing.assert_close(course(tmp_path / "two"), course(tmp_path / "one"), rtol=off, atol=0)
    both, alone = pretrained.load_card(tmp_path / "two"), finish_training(one)[1]
    assert both["data"] == alone["data"]
    for who in ("network", "pca"):
        assert both["scores"][who] == pytest.approx(alone["scores"][who], rel=1e-3), who
    (tmp_path / "embed.yaml").write_text(yaml.safe_dump(tree | {"losses": ["squares", "hinged"]}))
    done = launched("train", "autoencoder", "embed.yaml", "--out", "not", "--quiet", folder=tmp_path)
    assert "losses: hinged compares the patterns of a batch" in done.stderr


@pytest.mark.slow
def test_two_processes_find_the_resolution_by_halves(tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(electrons(tmp_path) | {"epochs": 3}))
    done = launched("reconstruct", "run.yaml", "--halves", "--out", "two", "--quiet", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("result: ") == 1
    found = load(tmp_path / "two" / "result.h5").halves
    alone = halves(Reconstruct.from_path(tmp_path / "run.yaml")).correlation
    np.testing.assert_allclose(found.value, alone.value, atol=5e-3)


@pytest.mark.slow
def test_a_calibration_finds_the_same_digits_in_one_process_and_in_two(tmp_path):
    tree = electrons(tmp_path)
    kept = {"file": "scan.h5", "probe": {"focused": {"semiangle": "40 mrad", "defocus": "90 A"}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(kept | {"prepare": ["transpose"]}))
    assert tree["file"] == kept["file"]
    done = launched("calibrate", "run.yaml", "--out", "two.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    recipe = Reconstruct.from_path(tmp_path / "run.yaml")
    alone = calibrate(recipe, recipe.scan())
    assert sum(line.startswith("orientation ") for line in done.stdout.splitlines()) == 1
    two = Reconstruct.from_path(tmp_path / "two.yaml")
    assert alone.state.defocus == pytest.approx(60, abs=5)
    assert two.prepare == alone.recipe.prepare
    assert two.probe.values == alone.recipe.probe.values


def compute_in_process(rank: int, count: int, file: str) -> None:
    """What the main process computes, it computes alone, and all have it; so it is with what goes wrong."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)
    try:
        seen = []

        def describe() -> Team:
            seen.append(teams.team())
            return seen[-1]

        assert Team(rank, count).compute_on_main(describe) == Team()
        assert len(seen) == (rank == 0)

        def refuse() -> None:
            raise BadInput("probe", 25, "is not an angle")

        with pytest.raises(BadInput, match="probe: 25 is not an angle"):
            Team(rank, count).compute_on_main(refuse)
        assert not teams._alone
        assert Team(rank, count).broadcast(rank) == 0
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.medium
def test_the_main_process_computes_for_all(tmp_path):
    processes.spawn(compute_in_process, (2, str(tmp_path / "meet")), nprocs=2)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_shares_are_all_of_a_batch_once(count, size):
    shares = [Team(rank, count).share(torch.arange(size)) for rank in range(count)]
    assert sum(weight for _, weight in shares) == pytest.approx(1)
    assert sorted(int(n) for part, weight in shares if weight for n in part) == [*range(size)]
    assert all(len(part) for part, _ in shares)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1",
            "another process has ended",
        ),
        ("mat1 and mat2 shapes cannot be multiplied", "this is a mistake of the program"),
    ],
)
def test_a_process_says_that_it_has_lost_another_one(said, sentence):
    code = "import os\nos.environ.update(RANK='1', WORLD_SIZE='2')\nfrom phaseloom.cli import command\n"
    code += f"def lost(**_): raise RuntimeError({said!r})\ncommand.app = lost\ncommand.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert ("Traceback" in done.stderr) == (sentence == "Traceback")


def test_one_process_is_a_team_without_being_told(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    teams.find_team.cache_clear()
    assert teams.team() == Team()
    assert teams.team().broadcast("word") == "word"


def test_a_count_that_is_none_is_said(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    teams.find_team.cache_clear()
    try:
        with pytest.raises(BadInput, match="WORLD_SIZE: two is not a number of processes"):
            teams.team()
    finally:
        teams.find_team.cache_clear()


@pytest.mark.slow
def test_a_process_leaves_its_group_before_it_ends(tmp_path):
    """With its threads alive the end of Python aborts the process, on a busy machine in 11 of 14 launches."""
    (tmp_path / "ends.py").write_text(
        "import atexit, os, torch\n"
        "from phaseloom.fitting.distributed import team\n"
        "say = lambda: os.write(1, f'group: {torch.distributed.is_initialized()}\\n'.encode())\n"  # at once
        "atexit.register(say)\n"
        "assert team().all_reduce(torch.ones(1)) == 2\n"
    )
    done = launched(folder=tmp_path, module="ends")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("group: False") == 2
