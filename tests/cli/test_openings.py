"""What the package writes is opened by every verb to which it makes sense; else a sentence says by which."""

import io
import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from phaseloom import cli
from phaseloom.data.formats import native
from phaseloom.data.scan import Scan4D
from phaseloom.export import files as exports
from phaseloom.reconstruction import check, protocol
from phaseloom.retrieval import predict_scans
from phaseloom.simulation import simulate
from phaseloom.simulation.experiment import Experiment
from tests.export.test_formats import METADATA

pytestmark = pytest.mark.medium

QUICK = ("-s", "start=none", "-s", "preset=none", "-s", "epochs=2", "-q")
QUICK += ("-s", "probe.focused={semiangle: 40 mrad, defocus: 60 A, modes: 1}")

VERBS = {
    "look": ("look", "FILE"),
    "check": ("check", "FILE"),
    "reconstruct": ("reconstruct", "FILE", "--out", "new-run"),
    "calibrate": ("calibrate", "FILE", "--out", "new.yaml"),
    "direct": ("direct", "FILE", "--out", "new.h5"),
    "virtual": ("virtual", "FILE", "--out", "new.h5"),
    "predict": ("predict", "scan", "FILE", "--out", "new-prediction"),
    "convert": ("convert", "FILE", "--out", "new.yaml"),
    "export": ("export", "FILE", "new.hspy"),
    "compare": ("compare", "FILE", "run/result.h5"),
}

SCANS = {"look", "check", "reconstruct", "calibrate", "direct", "virtual", "predict", "export"}
RESULTS = {"look", "check", "reconstruct", "calibrate", "predict", "export", "compare"}
IMAGES = {"look", "export"}

OPENED = {
    "scan.h5": SCANS,
    "scan.cxi": SCANS,
    "scan.nxs": SCANS,
    "scan.emd": SCANS,
    "scan.hspy": SCANS,
    "samples/000000.h5": SCANS,
    "samples/run.yaml": {"convert"},
    "samples": {"look"},
    "run": {"look", "export", "compare"},
    "run/run.yaml": SCANS | {"convert"},
    "run/result.h5": RESULTS,
    "run/snapshot.h5": set(),
    "calibrated.yaml": SCANS | {"convert"},
    "direct.h5": IMAGES,
    "images.h5": IMAGES,
    "prediction/prediction.h5": IMAGES,
    "result.nxs": RESULTS,
    "result.cxi": set(),
    "result.emd": set(),
    "result.hspy": set(),
    "product.h5": set(),
    "model.hdf5": set(),
    "direct.nxs": set(),
}
"""What the package writes, and the verbs that open it."""

WAYS = {
    "samples/run.yaml": "phaseloom simulate",
    "samples": "phaseloom look|a folder without a result.h5|is not a parameter file",
    "run": "phaseloom look|--resume|is not a parameter file",
    "run/snapshot.h5": "--resume",
    "result.cxi": "give the result or the scan",
    "result.emd": "give the result or the scan",
    "result.hspy": "give the result or the scan",
    "direct.nxs": "give the result or the scan",
    "product.h5": "object: {from_file",
    "model.hdf5": "object: {from_file",
}
"""What the sentences of others name; else a verb, or the kind of file that the verb takes."""


class Opened(BaseException):
    """The verb has read its file: what follows is tested elsewhere."""


def run_line(words: tuple[object, ...]) -> None:
    """A command line that works."""
    before = sys.argv
    sys.argv = ["phaseloom", *map(str, words)]
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said), pytest.raises(SystemExit) as end:
        cli.main()
    sys.argv = before
    assert not end.value.code, (words, said.getvalue())


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all of it."""
    folder = tmp_path_factory.mktemp("written")
    before = Path.cwd()
    os.chdir(folder)
    try:
        margin = 17 * 0.2
        positions = simulate.raster((6, 6), 1.0)
        positions += margin - positions.min(0)
        rows, columns = np.ceil((positions.max(0) + margin) / 0.2).astype(int)
        truth = simulate.atoms((int(rows), int(columns)), 0.2, peak=0.5, seed=2)
        scan, _ = simulate.electron_scan(
            truth, 0.2, positions, energy=80e3, semiangle=0.04, defocus=60.0, window=32, dose=1e5
        )
        scan = replace(scan, metadata=METADATA, grid=(6, 6))
        native.write(scan, "scan.h5")
        for ending in ("cxi", "nxs", "emd", "hspy"):
            exports.write(scan, f"scan.{ending}")
        for line in (
            ("simulate", "--out", "samples", "--count", 1, "--workers", 1, "-q"),
            ("reconstruct", "scan.h5", *QUICK, "--out", "run"),
            ("direct", "scan.h5"),
            ("virtual", "scan.h5"),
            ("predict", "scan", "scan.h5", "--model", "tiny", "--out", "prediction"),
            *(("export", "run", f"result.{ending}") for ending in ("nxs", "cxi", "emd", "hspy")),
            ("export", "run", "product.h5", "--to", "ptychodus"),
            ("export", "run", "model.hdf5", "--to", "ptyrad"),
            ("export", "direct.h5", "direct.nxs"),
        ):
            run_line(line)
        Path("calibrated.yaml").write_text(Path("run/run.yaml").read_text())
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch, written: Path) -> None:
    """Verbs stop when they have read their file."""
    from phaseloom.direct import recipe as direct
    from phaseloom.virtual import recipe as virtual

    def stop(*_: object, **__: object) -> None:
        raise Opened

    def read(recipe, *_: object, **__: object) -> None:
        assert isinstance(recipe.scan(), Scan4D)
        raise Opened

    monkeypatch.chdir(written)
    monkeypatch.setattr(protocol, "calibrate", stop)
    monkeypatch.setattr(protocol.Job, "begin", read)
    monkeypatch.setattr(check, "estimate_run", read)
    monkeypatch.setattr(predict_scans, "predict_scan", read)
    monkeypatch.setattr(direct, "reconstruct_recipe", stop)
    monkeypatch.setattr(virtual, "make_virtual_images", stop)
    for name in ("new.yaml", "new.hspy"):
        Path(name).unlink(missing_ok=True)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", OPENED)
@pytest.mark.usefixtures("opening")
def test_a_verb_opens_a_file_or_says_which_does(phaseloom, name, verb):
    words = [name if word == "FILE" else word for word in VERBS[verb]]
    try:
        ended: SimpleNamespace = phaseloom(*words)
    except Opened:
        ended = SimpleNamespace(code=0, err="")
    if verb in OPENED[name]:
        assert not ended.code, ended.err
        return
    assert ended.code == 2
    assert ended.err.startswith("phaseloom: ")
    assert ended.err.count("\n") == 1
    ways = [*WAYS.get(name, "phaseloom |give a result.h5").split("|"), "give a result.h5"]
    ways += ["is not a parameter file"] if verb == "convert" else []
    assert any(way in ended.err for way in ways), ended.err


@pytest.mark.usefixtures("opening")
def test_metadata_go_from_the_scan_into_everything(written):
    with h5py.File("run/result.h5") as file:
        assert json.loads(file["metadata"].asstr()[()]) == METADATA
        assert file["entry/metadata/instrument"].asstr()[()] == "Krios 2"
    for name in ("direct.h5", "images.h5", "prediction/prediction.h5"):
        with h5py.File(name) as file:
            assert json.loads(file["metadata"].asstr()[()]) == METADATA
            assert json.loads(file["beam"].asstr()[()])["energy"] == pytest.approx(80e3, rel=1e-6)
    with h5py.File("direct.nxs") as file:
        assert file["entry/sample/name"].asstr()[()] == "graphene"


def test_a_simulated_scan_is_what_its_sample_says(written):
    from phaseloom.data.formats import read
    from phaseloom.simulation.samples import read as read_sample

    scan, sample = (reader(written / "samples" / "000000.h5") for reader in (read, read_sample))
    experiment: Experiment = sample.experiment
    assert scan.grid == experiment.scan
    assert scan.geometry.energy == pytest.approx(experiment.energy)
    assert scan.geometry.angle[0] == pytest.approx(experiment.angle)
    np.testing.assert_allclose(scan.counts, sample.scan().counts)


def test_the_sections_of_a_run_are_known_to_verbs_that_skip_them():
    from phaseloom.embedding.train import Autoencode
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.runs.scan_recipe import SECTIONS_OF_SCAN_RECIPES

    assert {*Reconstruct.model_fields, *Autoencode.model_fields} <= SECTIONS_OF_SCAN_RECIPES
