"""What is written and run when a form is sent: a parameter file, and the words of the command line."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phaseloom.cli.describe import VERBS
from phaseloom.errors import BadInput
from phaseloom.files import make_folder, write_text
from phaseloom.spec import Recipe
from phaseloom.web.paths import name_folder, resolve_inside
from phaseloom.web.state.forms import find_paths

__all__ = ["PRESETS", "Order", "check_file", "merge_preset", "prepare_order", "require_paths_inside"]

SECONDS_OF_A_CHECK = 600

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "reconstruct": {
        "Defaults": {},
        "Quick look (5 epochs)": {"epochs": 5},
        "Thorough (60 epochs, 6 modes)": {"epochs": 60, "probe": {"auto": {"modes": 6}}},
        "As stated, no calibration": {"preset": "none", "start": "none"},
        "Few electrons": {"noise": "poisson", "object_prior": "direct"},
    }
}
"""Settings to begin with, by verb."""

FILES_OF_OUTPUT = {"direct": "direct.h5", "virtual": "images.h5"}
"""What the verbs write that do not write a folder of a run."""


@dataclass(frozen=True)
class Order:
    """A command that is about to be run.

    Attributes:
        words: of the command, behind ``phaseloom``.
        parameters: its parameter file, written already.
        folder: that it writes.
    """

    words: tuple[str, ...]
    parameters: Path
    folder: Path


def prepare_order(
    root: Path, verb: str, recipe: Recipe, text: str, /, *, name: str = "", extra: str = ""
) -> Order:
    """Write the parameter file of a command into the folder of the page, and find its words.

    Args:
        root: folder of the page; runs go to ``runs`` in it.
        verb: see `phaseloom.web.state.forms.VERBS_WITH_FORMS`.
        recipe: of the text, its paths resolved.
        text: of the parameter file.
        name: of the run; default: the title, or the verb.
        extra: of a search: the parameter file that is searched.

    Raises:
        BadInput: a path outside of the folder, or a name that cannot be one.
    """
    require_paths_inside(root, recipe)
    runs = root if root.name == "runs" else root / "runs"
    folder = _new_folder(runs, name or str(getattr(recipe, "title", "")) or _name_of_data(recipe) or verb)
    parameters = folder.with_name(f"{folder.name}.yaml")
    write_text(parameters, _with_full_paths(recipe, text))
    words = _words(verb, recipe, parameters, root, extra)
    out = folder / FILES_OF_OUTPUT[verb] if verb in FILES_OF_OUTPUT else folder
    if verb in FILES_OF_OUTPUT:
        make_folder(folder)
    quiet = (
        ["--quiet"]
        if verb in ("reconstruct", "train", "autoencoder", "restorer", "simulate", "search")
        else []
    )
    return Order((*words, "--out", str(out), *quiet), parameters, folder)


def _words(verb: str, recipe: Recipe, parameters: Path, root: Path, extra: str) -> list[str]:
    if verb == "search":
        if not extra:
            raise BadInput("search", None, "needs the parameter file that is searched: name it")
        return ["search", str(resolve_inside(root, extra)), str(parameters)]
    pattern = VERBS.get(verb, "reconstruct {file}").removesuffix(" --out FOLDER")
    stage = str(getattr(recipe, "stage", ""))
    return [word.format(file=parameters, stage=stage) for word in pattern.split(" ")]


def require_paths_inside(root: Path, recipe: Recipe, /) -> None:
    """Refuse a recipe that reads from outside of the folder of the page.

    Raises:
        BadInput: it does, or a file is not there.
    """
    base = root.resolve()
    for path in find_paths(recipe):
        if str(path) in ("in memory", "."):
            continue
        whole_path = (base / path).resolve()
        if not whole_path.is_relative_to(base):
            raise BadInput(
                str(path), None, "is not in the folder of this page: open the page on a folder that holds it"
            )
        if path.is_absolute() and not whole_path.exists():
            raise BadInput(str(path), None, "does not exist: choose a file")


def _with_full_paths(recipe: Recipe, text: str) -> str:
    """The text as it was typed, with the path of the data in full, for the file lies elsewhere."""
    return recipe.to_text(defaults=False) if find_paths(recipe) else text


def _name_of_data(recipe: Recipe) -> str:
    file = getattr(recipe, "file", None)
    return "" if file is None or str(file) == "in memory" else Path(file).stem


def _new_folder(runs: Path, name: str) -> Path:
    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{name_folder(name) or 'run'}"
    folder = runs / stem
    number = 2
    while folder.exists() or folder.with_name(f"{folder.name}.yaml").exists():
        folder = runs / f"{stem}-{number}"
        number += 1
    return folder


def check_file(parameters: Path, /) -> tuple[list[tuple[str, str]], list[str]]:
    """What a reconstruction would need, and warnings, by ``phaseloom check`` in a process of its own.

    A check reads the data and tries a few batches, so that it takes the memory of a run for a while.

    Raises:
        BadInput: what the check refuses.
    """
    command = [sys.executable, "-m", "phaseloom", "check", str(parameters)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_OF_A_CHECK, check=False
        )
    except subprocess.TimeoutExpired as problem:
        raise BadInput(
            "check", None, f"took more than {SECONDS_OF_A_CHECK} seconds and was ended"
        ) from problem
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise BadInput("check", None, said[-1].removeprefix("phaseloom: ") if said else "failed")
    return _parse_check(done.stdout)


def _parse_check(text: str) -> tuple[list[tuple[str, str]], list[str]]:
    r"""Facts and warnings of what ``phaseloom check`` prints.

    Example:
        >>> _parse_check("patterns                     25 of 32x32\nWARN too few")
        ([('patterns', '25 of 32x32')], ['too few'])
    """
    facts, warnings = [], []
    for line in text.splitlines():
        if line.startswith("WARN "):
            warnings.append(line.removeprefix("WARN "))
        elif line.strip():
            name, value = line[:28].strip(), line[28:].strip()
            facts.append((name, value))
    return facts, warnings


def merge_preset(tree: Mapping[str, Any], preset: Mapping[str, Any], /) -> dict[str, Any]:
    """A preset with the data of a tree: what says which file is read stays.

    Example:
        >>> merge_preset({"file": "a.cxi", "epochs": 9}, {"epochs": 5})
        {'file': 'a.cxi', 'epochs': 5}
    """
    kept = {name: value for name, value in tree.items() if name in ("file", "read", "prepare", "title")}
    return kept | dict(preset)
