"""Verbs that write, as small as they can be, and what must be true of what they leave."""

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml
from PIL import Image

from phaseloom.files import LOCK_NAME, TEMPORARY
from tests.hostile.fork_server import Outcome

RUN = {
    "probe": {"focused": {"semiangle": "40 mrad", "defocus": "60 A", "modes": 1}},
    "start": "none",
    "batch": {"random": {"size": 8}},
    "epochs": 3,
    "preset": None,
}


@dataclass(frozen=True)
class Verb:
    """A command that writes below ``o``, or to files of the working folder.

    Attributes:
        name: of the case.
        argv: of the command, with names of `Inputs` in braces.
        again: the command that goes on after it was killed; default: the same.
        begun: the file that must be there for ``again``.
        short: few calls write, so that the loop over all of them is quick.
        copies: an input that is copied into the working folder first, for verbs that write beside it.
    """

    name: str
    argv: str
    again: str = ""
    begun: str = ""
    short: bool = False
    copies: str = ""

    def words(self, inputs: "Inputs", folder: Path) -> list[str]:
        """The command, to begin or to go on."""
        if self.copies:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(getattr(inputs, self.copies), folder)
        if self.again and (folder / self.begun).exists():
            return shlex.split(self.again)
        return self.argv_of(inputs)

    def argv_of(self, inputs: "Inputs") -> list[str]:
        """The command that begins."""
        return shlex.split(self.argv.format(**vars(inputs)))


@dataclass(frozen=True)
class Inputs:
    """Files that verbs read: scans, parameter files, a run, its result, networks, pairs of images."""

    scan: Path
    raster: Path
    run: Path
    theirs: Path
    search: Path
    result: Path
    autoencoder: Path
    embedding: Path
    patterns: Path
    finished: Path
    pairs: Path
    restorer: Path


NETWORK = "'model={{recommended: {{latent_dim: 3, width: 8, head_channels: 2}}}}'"

TRAIN = "-q -s epochs=2 -s views=8 -s batch=4 -s clean=1 -s shape=constant -s scans=3 -s unseen=1"

PATCHES = (
    f"train patches --out o {TRAIN} -s 'window=[10,10]' -s 'microscope={{{{fixed: {{{{scan: [16, 16]}}}}}}}}'"
    " -s 'model={{tiny: {{components: 24, width: 8, depth: 1}}}}'"
)

LINEAR = (
    "train linear --out o -s scans=3 -s unseen=1 -s 'microscope={{fixed: {{scan: [12, 12]}}}}'"
    " -s 'model={{linear: {{components: 30}}}}'"
)

RESTORER = (
    "train restorer --out o -q -s epochs=2 -s crops=16 -s 'data=[{pairs}]'"
    " -s 'model={{recommended: {{widths: [4, 8], blocks: [1, 1], heads: [1, 2], refine: 0}}}}'"
)

SIMULATE = "simulate --out o --count 1 --workers 1 -q -s microscope={{fixed:{{scan:[2,2]}}}}"

VERBS = [
    Verb("reconstruct", "reconstruct {run} --out o -q", "reconstruct --resume o -q", "o/run.yaml"),
    Verb("simulate", SIMULATE),
    Verb(
        "autoencoder",
        "train autoencoder {scan} --out o -q -s epochs=2 -s block=1 -s " + NETWORK,
        "train autoencoder --resume o -q",
        "o/run.yaml",
    ),
    Verb("search", "search {run} {search} --out o -q", "search --resume o -q", "o/search.yaml"),
    Verb("patches", PATCHES, "train patches --resume o -q", "o/run.yaml"),
    Verb("linear", LINEAR, short=True),
    Verb("restorer", RESTORER, "train restorer --resume o -q", "o/run.yaml"),
    Verb("embed", "embed {scan} --model {autoencoder} --out o/e.h5", short=True),
    Verb("embed npz", "embed {scan} --model {autoencoder} --out o/e.npz", short=True),
    Verb("latents", "latents {embedding} --out o --clusters 2"),
    Verb("predict scan", "predict scan {raster} --model tiny --out o", short=True),
    Verb("virtual", "virtual {scan} --out o/v.h5", short=True),
    Verb("direct", "direct {scan} --out o/d.h5 --semiangle 40mrad", short=True),
    Verb("convert", "convert {theirs} --out o/r.yaml", short=True),
    Verb("look", "look {scan} --picture o/p.png", short=True),
    Verb("side-car", "look {patterns.name} --write-sidecar", short=True, copies="patterns"),
    Verb("look at a folder", "look {finished} --html o/f.html --figure o/f.png", short=True),
    Verb("predict scans", "predict scans {raster} --model tiny --out o --workers 1", short=True),
    Verb("branch", "steer {finished} branch o -s epochs=9", short=True),
    *(
        Verb(f"export {end}", f"export {{result}} o/r.{end}", short=True)
        for end in ("nxs", "cxi", "emd", "hspy", "mrc", "tif")
    ),
    *(Verb(f"export scan {end}", f"export {{scan}} o/s.{end}", short=True) for end in ("nxs", "cxi", "emd")),
    Verb("export figures", "export {result} o --to figures", short=True),
    Verb("export stacks", "export {result} o --to stacks", short=True),
    Verb("restore demo-data", "restore demo-data o --train 1 --test 1 --size 32 --invented 1", short=True),
    Verb("restore apply", "restore apply {pairs}/test/input --model {restorer} --out o", short=True),
    Verb("restore eval", "restore eval --data {pairs} --model {restorer} --out o", short=True),
    Verb("restore pairs", "restore pairs {raster} --out o --task virtual_detector --draws 1", short=True),
]
"""Every verb that writes and takes less than seconds."""


def check_files(folder: Path, *, strays: bool = True) -> int:
    """Every file is whole; the number of files.

    Args:
        folder: that a verb wrote into.
        strays: whether temporary files and locks are faults too: after a kill they are not.
    """
    count = 0
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or "signs" in path.parts:
            continue
        if path.name == LOCK_NAME or path.name.endswith(LOCK_NAME) or TEMPORARY.fullmatch(path.name):
            assert not strays, f"{path} stayed"
            continue
        if check := CHECKS.get(path.suffix):
            check(path)
        count += 1
    return count


def _check_hdf5(path: Path) -> None:
    with h5py.File(path) as file:
        file.visititems(lambda _, one: one[()] if isinstance(one, h5py.Dataset) else None)


def _check_lines(path: Path) -> None:
    lines = path.read_text().split("\n")
    for line in lines[:-1]:
        json.loads(line)


def _check_picture(path: Path) -> None:
    with Image.open(path) as picture:
        picture.load()


def _check_npz(path: Path) -> None:
    with np.load(path) as file:
        assert all(file[name] is not None for name in file.files)


CHECKS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys([".h5", ".nxs", ".cxi", ".emd", ".hspy"], _check_hdf5),
    ".jsonl": _check_lines,
    ".json": lambda path: json.loads(path.read_text()),
    ".yaml": lambda path: yaml.safe_load(path.read_text()),
    ".png": _check_picture,
    ".tif": _check_picture,
    ".npz": _check_npz,
    ".npy": np.load,
}


def check_ending(outcome: Outcome, what: str) -> None:
    """A verb that could not write ended with one sentence that says which file and what to do."""
    assert not outcome.has_traceback, f"{what}: {outcome.err}"
    assert not outcome.timed_out, what
    assert outcome.code in (0, 1, 2), f"{what}: ended with {outcome.code}: {outcome.err}"
    if outcome.code:
        assert outcome.sentence.startswith("phaseloom: "), f"{what}: {outcome.err}"
        assert "cannot be written" in outcome.sentence, f"{what}: {outcome.err}"


def read_arrays(folder: Path) -> dict[str, Any]:
    """What a run has computed, without times: to be compared bit for bit."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.h5")):
        if path.name.startswith("."):
            continue
        with h5py.File(path) as file:
            file.visititems(partial(_keep_numbers, found, str(path.relative_to(folder))))
    return found


def _keep_numbers(found: dict[str, Any], place: str, name: str, one: Any) -> None:
    values = one[()] if isinstance(one, h5py.Dataset) else None
    if isinstance(values, np.ndarray) and values.dtype.kind in "fcui":
        found[f"{place}:{name}"] = values
