"""Files of an older version open, and come to the numbers that they came to: `tests/data/before_move`."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from matplotlib.figure import Figure

import phaseloom as pl

OLD = Path(__file__).parents[1] / "data" / "before_move"
NUMBERS: dict[str, dict[str, list[float]]] = json.loads((OLD / "numbers.json").read_text())
"""What opening each file must give."""

Said = Callable[..., SimpleNamespace]


@pytest.fixture(autouse=True)
def _copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files in a folder of the test's own; pictures are not drawn."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **knobs: file.write(b"picture"))


def hold(name: str, *, rel: float = 1e-4, **found: Any) -> None:
    """Arrays have the mean, the rms and the last value that they had."""
    for part, array in found.items():
        values = np.atleast_1d(np.asarray(array)).ravel()
        if np.iscomplexobj(values):
            values = values.view(values.real.dtype)
        values = values.astype(np.float64)
        three = [values.mean(), np.sqrt(np.mean(values**2)), values[-1]]
        known = NUMBERS[name][part]
        assert three == pytest.approx(known, rel=rel, abs=rel * abs(known[1])), f"{name}: {part}"


def arrays(path: str, *names: str) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: np.asarray(file[name]) for name in names}


def losses(folder: str) -> list[float]:
    lines = (Path(folder) / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def succeed(done: SimpleNamespace) -> None:
    assert not done.code, done.err


def test_a_result_is_loaded_and_knows_its_run() -> None:
    result = pl.load("result.h5")
    hold("result", object=result.object, probe=result.probe, positions=result.positions)
    hold("result", losses=[epoch["loss"] for epoch in result.history], pixel=result.pixel)
    assert result.metrics["loss"] == pytest.approx(NUMBERS["result"]["losses"][2], rel=1e-4)
    recipe = pl.Reconstruct.from_path("result.h5")
    assert recipe.title == "before the move"
    assert recipe.epochs == 4


def test_a_scan_is_read() -> None:
    scan = pl.read("scan.h5")
    hold("scan", counts=scan.counts[:], positions=scan.positions, angle=scan.geometry.angle, rel=1e-9)
    assert scan.grid == (5, 5)


def test_a_parameter_file_runs_as_it_did() -> None:
    # the likelihood of the time knew no limit far from the counts
    job = pl.Job.begin(pl.Reconstruct.from_path("reconstruct.yaml", {"noise.poisson.limit": math.inf}))
    found = [epoch.loss for epoch in job]
    hold("result", losses=found, object=job.result().object, rel=1e-2)


def test_a_run_that_was_stopped_goes_on_to_where_the_whole_run_came() -> None:
    first = losses("half")
    job = pl.Job.resume("half")
    more = [epoch.loss for epoch in job]
    assert (len(first), len(more)) == (2, 2)
    hold("result", losses=first + more, object=job.result().object, rel=1e-2)


def test_a_training_that_was_stopped_goes_on(phaseloom: Said) -> None:
    succeed(phaseloom("train", "patches", "training", "--resume", "-q"))
    hold("training", losses=losses("training"), rel=1e-2)


def test_a_search_gets_another_trial_and_keeps_the_old_ones(phaseloom: Said) -> None:
    succeed(phaseloom("search", "--resume", "search", "--trials", 3, "-q"))
    with open("search/trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["done"] * 3
    hold("search", values=[float(row["hold-out loss"]) for row in rows[:2]], rel=1e-9)
    hold("search", rates=[float(row["rate"]) for row in rows], rel=1e-2)
    hold("search", third=float(rows[2]["hold-out loss"]), rel=1e-2)


def test_a_training_and_a_search_file_begin_a_search(phaseloom: Said) -> None:
    succeed(phaseloom("search", "train.yaml", "tune.yaml", "--trials", 1, "--out", "new", "-q"))
    with open("new/trials.csv") as file:
        hold("search", first=float(next(csv.DictReader(file))["hold-out loss"]), rel=1e-2)


def test_a_set_is_simulated_as_it_was(phaseloom: Said) -> None:
    succeed(phaseloom("simulate", "simulate.yaml", "--out", "new", "--workers", 1, "-q"))
    new, old = (arrays(f"{folder}/000000.h5", "patterns", "phase") for folder in ("new", "samples"))
    np.testing.assert_allclose(new["phase"], old["phase"], rtol=1e-4, atol=1e-6)
    assert (new["patterns"] != old["patterns"]).mean() < 1e-3


@pytest.mark.parametrize("name", ["linear", "tiny"])
def test_networks_predict_what_they_did(phaseloom: Said, name: str) -> None:
    angle = f"{1e3 * 0.0417572 / (64 * 0.4) * 2:.6f} mrad"
    read = f"{{hdf5: {{dataset: patterns, energy: 80 keV, angle: {angle}, step: 2 A}}}}"
    optics = ["-s", "probe.focused.semiangle=20 mrad", "-s", "probe.focused.defocus=90 A"]
    network = f"networks/{name}.safetensors"
    words = ["-s", f"read={read}", "-m", network, "--dose", 1e4, "--out", "out"]
    succeed(phaseloom("predict", "scan", "samples/000000.h5", *optics, *words))
    hold(name, **arrays("out/prediction.h5", "phase"), rel=1e-3)


def test_an_autoencoder_embeds_as_it_did(phaseloom: Said) -> None:
    succeed(phaseloom("embed", "disks.npy", "--model", "autoencoder", "--out", "new.h5"))
    new, old = (arrays(path, "latents", "misfit", "totals") for path in ("new.h5", "embeddings.h5"))
    for name in new:
        np.testing.assert_allclose(new[name], old[name], rtol=1e-3, atol=1e-4, err_msg=name)
    hold("embeddings", latents=old["latents"], misfit=old["misfit"])


def test_embeddings_are_grouped(phaseloom: Said) -> None:
    words = ["--clusters", 3, "--raw", "--seeds", 2, "--out", "groups"]
    succeed(phaseloom("latents", "embeddings.h5", *words))
    with h5py.File("groups/clusters.h5") as file:
        group: Any = file["k-means"]
        hold("groups", sizes=np.sort(np.asarray(group["sizes"])), rel=0.05)


def test_a_file_of_an_autoencoder_trains(phaseloom: Said) -> None:
    words = ["-s", "epochs=1", "-s", "patience=1", "--out", "new", "-q"]
    succeed(phaseloom("train", "autoencoder", "autoencode.yaml", *words))
    hold("autoencoder", losses=losses("new"), rel=1e-2)


def test_a_restorer_restores_what_it_did_and_its_file_trains(phaseloom: Said) -> None:
    image = np.random.default_rng(0).uniform(size=(3, 16, 24)).astype(np.float32)
    np.save("image.npy", image)
    network = "networks/restorer.safetensors"
    succeed(phaseloom("restore", "apply", "image.npy", "-m", network, "--out", "restored"))
    hold("restorer", image=np.load("restored/restored/image.npy"))
    succeed(phaseloom("restore", "demo-data", "sea", "--train", 6, "--test", 2, "--size", 32, "--seed", 1))
    succeed(phaseloom("train", "restorer", "restore.yaml", "--out", "new", "-q"))
    hold("restorer", losses=losses("new"), rel=1e-2)
