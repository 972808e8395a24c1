"""What verbs are given: files, settings, folders to write to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phaseloom.cli.command import is_other_process, output_locks
from phaseloom.errors import BadInput

if TYPE_CHECKING:
    from phaseloom.runs.scan_recipe import ScanRecipe

__all__ = [
    "DataFile",
    "Set",
    "check_picture_name",
    "is_parameter_file",
    "load_own_recipe",
    "load_recipe",
    "load_recipe_with_folder",
    "lock_output",
    "lock_resumed",
    "new_folder",
    "new_run_folder",
    "parameter_tree",
    "parse_settings",
    "translated_tree",
]

DataFile = Annotated[
    Path,
    typer.Argument(
        help="data (.mib .xml .blo .tvips .cxi .h5 .npy ..., see docs/formats.md), run.yaml of ours or of "
        "PtyRAD, or result.h5"
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "-s", metavar="PATH=VALUE", help="change a setting, e.g. probe.focused.defocus='9 nm'"
    ),
]


def check_picture_name(path: Path) -> Path:
    """The name of a picture, refused where it is none."""
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg", ".tif"):
        raise BadInput(
            "--picture", path.name, "has no ending of a picture: use .png, .pdf, .svg, .jpg or .tif"
        )
    return path


def is_parameter_file(file: Path) -> bool:
    """Whether the name is that of a parameter file; sparse rows of detectors are named ``.toml`` as well."""
    from phaseloom.data.formats.vendor import raw_csr

    return file.suffix in PARAMETER_FILES and not raw_csr.knows(file)


def load_recipe(file: Path, settings: list[str] | None) -> Any:
    """The recipe of a reconstruction from a data file, a parameter file (also of PtyRAD) or a result."""
    return load_recipe_with_folder(file, settings)[0]


def load_recipe_with_folder(file: Path, settings: list[str] | None) -> tuple[Any, Path]:
    """The recipe, and where its runs go: ``output_dir`` of a PtyRAD file that has one, else ``runs``."""
    from phaseloom.cli.describe import refuse_foreign
    from phaseloom.reconstruction.recipe import Reconstruct

    changes = parse_settings(settings or [])
    usual = Path("runs")
    if not is_parameter_file(file):
        return Reconstruct.from_path(file, changes), usual
    tree = parameter_tree(file)
    if (ours := translated_tree(tree, file)) is None:
        refuse_foreign(tree, file)
        return Reconstruct.from_tree(tree, file.parent, changes), usual
    recipe = Reconstruct.of(ours)
    folder = Path((tree.get("recon_params") or {}).get("output_dir") or usual)
    return recipe.with_settings(changes) if changes else recipe, folder


def load_own_recipe(kind: type["ScanRecipe"], file: Path, changes: dict[str, Any]) -> Any:
    """A recipe of another verb from data, its own parameter file or that of a reconstruction."""
    from phaseloom.cli.describe import refuse_foreign

    if file.suffix in (".yaml", ".yml"):
        tree = parameter_tree(file)
        if not set(tree) - {"version"} <= set(kind.model_fields):
            refuse_foreign(tree, file)
    return kind.from_path(file, changes)


PARAMETER_FILES = (".yaml", ".yml", ".toml", ".json", ".py")
"""Endings of parameter files; those that are not YAML can only be of PtyRAD, or sparse counts (.toml)."""


def parameter_tree(file: Path) -> dict[str, Any]:
    """The tree of a parameter file, parsed once."""
    if file.suffix in (".yaml", ".yml"):
        from phaseloom.documents import load_yaml

        return load_yaml(file)
    from phaseloom.compat import ptyrad

    return ptyrad.load(file)


def translated_tree(tree: dict[str, Any], file: Path) -> dict[str, Any] | None:
    """The tree of a PtyRAD file in our terms, with notes on differences printed; ``None`` for one of ours."""
    is_yaml = file.suffix in (".yaml", ".yml")
    if is_yaml and not any(str(name).endswith("_params") for name in tree):
        return None  # as every section of theirs does: a tenth of a second less to import
    from phaseloom.compat import ptyrad

    if not ptyrad.is_ptyrad(tree):
        if is_yaml:
            return None
        raise BadInput(str(file), None, "is not a parameter file of PtyRAD, and ours are .yaml")
    ours, notes = ptyrad.translate_project(tree, file.parent)
    typer.echo(
        f"{file.name} is a parameter file of PtyRAD; what differs here:" if notes else f"{file.name}: PtyRAD"
    )
    for note in notes:
        typer.echo(f"  - {note}")
    return ours


def warn_of_bad_pixels(scan: Any, /) -> list[str]:
    """Sentences on pixels that would spoil whatever is learned or seen of a scan."""
    from phaseloom.data.diagnostics import inspect

    bad = [
        found
        for found in inspect(scan)
        if found.name in ("hot pixels", "dead pixels") and found.level == "warn"
    ]
    return [f"WARN: {one.name}: {one.value}. {one.advice}" for one in bad]


def parse_settings(given: list[str]) -> dict[str, Any]:
    """``path=value`` pairs, the value read as YAML."""
    from phaseloom.documents import parse_yaml, require_plain

    out = {}
    for text in given:
        path, equals, value = text.partition("=")
        if not equals or not path.strip():
            raise BadInput("--set", text, "is not PATH=VALUE, e.g. --set epochs=30")
        try:
            out[path.strip()] = parse_yaml(value, f"--set {path}")
        except BadInput as problem:
            if not problem.fix.startswith("is not YAML"):
                raise
            if ": " not in value and value[:1] not in "{[":
                out[path.strip()] = require_plain(value, f"--set {path}")
                continue
            raise BadInput(
                f"--set {path}", value, "is not a value that YAML can read: check quotes and braces"
            ) from None
    return out


def new_run_folder(out: Path | None, name: str, parent: Path = Path("runs")) -> Path:
    """The folder of a run, which the first of several processes names."""
    from phaseloom.fitting.distributed import team

    return team().broadcast(new_folder(out, name, parent) if team().is_main else Path())


def new_folder(out: Path | None, name: str, parent: Path = Path("runs")) -> Path:
    """A new run folder, locked; an existing one is never written into."""
    import datetime
    import re

    if out is not None:
        lock_output(out)
        if (out / "run.yaml").exists():
            raise BadInput("--out", str(out), EXISTS)
        return out
    from phaseloom.runs.lock import make_run_folder

    stem = f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)[:40]}"
    lock = make_run_folder(stem, parent=parent)
    output_locks.append(lock)
    return lock.path


EXISTS = "exists already: name a new folder, or use --resume to go on with it"


def lock_output(path: Path, /, *, is_file: bool = False, taken: str = EXISTS) -> Path:
    """A folder or file of which this command is the only writer to its end.

    Raises:
        BadInput: another process writes it; a file where a folder must be.
    """
    from phaseloom.runs.lock import OutputLock

    if not is_file and path.is_file():
        raise BadInput("--out", str(path), taken)
    if not is_other_process():
        output_locks.append(OutputLock(path, is_file=is_file))
    return path


def lock_resumed(folder: Path, /) -> Path:
    """The folder of a run to go on with, of which this command is the only writer to its end.

    Of a kept snapshot in it, the folder is locked and the path of the snapshot returned.
    """
    from phaseloom.runs.folder import split_kept_path

    run, _ = split_kept_path(folder)
    if run.is_dir():
        lock_output(run)
    return folder
