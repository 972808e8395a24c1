"""What the documents show is run."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

import phaseloom as pl
from phaseloom.data.formats import cxi
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.restoration.train import Restore

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list:
    """Code blocks of a language, named by page and number."""
    found = []
    for page in (page for page in PAGES if page.name != "tutorial.md"):  # its blocks are parts of scripts
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)):
            found.append(pytest.param(text, id=f"{page.name}-{number}"))
    return found


@pytest.fixture
def scan_file() -> None:
    """A small scan under the name that the documents use."""
    pixel, window = 0.3, 24
    places = pl.simulate.raster((6, 6), 0.7, jitter=0.03) + (window // 2 + 2) * pixel
    truth = pl.simulate.atoms((44, 44), pixel)
    scan, _ = pl.simulate.electron_scan(truth, pixel, places, energy=80e3, semiangle=0.025, window=window)
    cxi.write(scan, Path("scan.cxi"))
    np.save("scan.npy", np.asarray(scan.counts))
    init = {"probe_kv": 80, "probe_conv_angle": 25, "meas_Npix": window, "meas_params": {"path": "scan.npy"}}
    init |= {"pos_N_scan_slow": 6, "pos_N_scan_fast": 6, "pos_scan_step_size": 0.7, "obj_Nlayer": 1}
    init |= {"obj_slice_thickness": 1.0, "meas_calibration": {"mode": "dx", "value": pixel}}
    recon = {"NITER": 2, "SAVE_ITERS": None}
    Path("params.yaml").write_text(yaml.safe_dump({"init_params": init, "recon_params": recon}))


@pytest.mark.medium
@pytest.mark.parametrize("text", blocks("python"))
@pytest.mark.usefixtures("scan_file")
def test_python_blocks_run(text: str) -> None:
    exec(compile(text, "document", "exec"), {})


@pytest.mark.parametrize("text", blocks("yaml"))
def test_parameter_files_are_understood(text: str) -> None:
    text = text.removeprefix("# run.yaml\n")
    tree = yaml.safe_load(text)
    if "data" in tree:
        assert Restore.of(tree).batch == tree["batch"]
    elif "file" in tree:
        assert Reconstruct.of(tree).file.name == tree["file"]
    else:
        np.save("scan.npy", np.ones((64, 64, 4, 4), np.uint16))
        Path("scan.npy.yaml").write_text(text)
        assert len(pl.read("scan.npy")) == 64 * 64


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_command_of_the_documents_exists() -> None:
    from phaseloom.cli import app

    known = {command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    for page in PAGES:
        for verb in re.findall(r"^phaseloom (\w+)", page.read_text(), re.M):
            assert verb in known, f"{page.name}: {verb}"


STUBS = sorted((ROOT / "src").rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_the_front_doors_are_as_listed(stub: Path) -> None:
    if stub.parent.name == "search":
        pytest.importorskip("optuna")
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT / "src").parts))
    assert dir(package) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
