"""From specimens and a microscope to a folder of simulated scans, each with its phase."""

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import make_folder, remove_stale_files, write_text
from phaseloom.runs.folder import save_recipe
from phaseloom.runs.lock import Holder, take_turns
from phaseloom.runs.parallel_map import map_unordered, one_thread, worker_pool
from phaseloom.simulation import samples
from phaseloom.simulation.scan import Sample, simulate_scan
from phaseloom.spec import Call, Recipe, load_yaml, part

__all__ = ["Simulate", "list_missing", "simulate", "simulate_sample"]

RANGE_FIELDS = ("count", "first", "title")
"""What may differ between runs that write to the same folder."""

SIGN_NAME = ".phaseloom.simulating"
"""Who began, or joined, last."""

SECONDS_UNTIL_STALE = 3600.0
"""Seconds after which a file that is half written belongs to nobody any more."""


class Simulate(Recipe):
    """A set of simulated scans: its parameters are those of the file ``run.yaml``.

    Attributes:
        specimen: what is looked at, drawn anew for each sample.
        microscope: how it is looked at.
        count: samples.
        first: number of the first one.
        seed: of everything that is drawn, together with a sample's number.
        layout: ``ours``, a file for each sample; ``seed``, five files of 700 samples, and the microscope of
            that layout if no other is given.
        title: for people.

    Example:
        >>> Simulate.of({"count": 3, "layout": "seed"}).microscope.name
        'seed'
    """

    specimen: Call = part("phaseloom.simulation.specimens", "prototypes")
    microscope: Call = part("phaseloom.simulation.microscopes", "fixed")
    count: int = Field(ge=1, strict=True)
    first: int = Field(0, ge=0, strict=True)
    seed: int = Field(0, ge=0, lt=2**63, strict=True)
    layout: Literal["ours", "seed"] = "ours"
    title: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_that_layout(cls, data: Any) -> Any:
        seeds = isinstance(data, Mapping) and data.get("layout") == "seed"
        return {"microscope": "seed", **data} if seeds else data

    @classmethod
    def from_path(cls, path: Path | str | None, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe from a parameter file, or from nothing but settings."""
        tree = {} if path is None else load_yaml(Path(path))
        folder = Path() if path is None else Path(path).parent
        settings = settings or {}
        top = {name: value for name, value in settings.items() if "." not in name}
        recipe = cls.of({**tree, **top}).with_paths_from(folder)
        inner = {name: value for name, value in settings.items() if "." in name}
        return recipe.with_settings(inner) if inner else recipe

    @property
    def numbers(self) -> range:
        """Of the samples that are wanted."""
        return range(self.first, self.first + self.count)


def simulate_sample(recipe: Simulate, number: int, /) -> Sample:
    """A sample of a set: the same for a seed and a number, whatever else is simulated.

    Args:
        recipe: of the set; its ``count`` and ``first`` do not matter.
        number: of the sample.

    Raises:
        BadInput: a specimen or a microscope that cannot be, with the number.
    """
    try:
        rng = np.random.default_rng([recipe.seed, number])
        experiment = recipe.microscope(rng)
        specimen = recipe.specimen(experiment.box, rng)
        return simulate_scan(specimen, experiment, seed=int(rng.integers(2**63)))
    except MissingExtra:
        raise
    except BadInput as problem:
        raise BadInput(f"sample {number}", None, str(problem)) from problem


def list_missing(recipe: Simulate, folder: Path, /) -> list[int]:
    """Numbers of the samples that are wanted and not in the folder yet.

    Raises:
        BadInput: the folder was begun with another recipe, or holds samples of which nobody knows whose.
    """
    folder = Path(folder)
    _require_same_recipe(recipe, folder)
    if recipe.layout == "ours":
        there = set(samples.list_sample_files(folder))
    else:
        files = sorted({samples.seed_file_name(number) for number in recipe.numbers})
        there = set(samples.list_sample_files(folder / samples.WAITING_FOLDER)).union(
            *(samples.list_numbers(folder / name) for name in files)
        )
    return [number for number in recipe.numbers if number not in there]


def simulate(
    recipe: Simulate, folder: Path, /, *, workers: int | None = None, scheduler: str | None = None
) -> Generator[int, None, None]:
    """Simulate what is not there yet, and yield each number as its file is written.

    A sample is written whole or not at all, so a run may be stopped and called again at any time, and any
    number of processes and machines may work on the same folder. Those that join take what is missing in an
    order of their own, so that two hardly ever simulate the same sample; if they do, it is the same twice.
    Samples do not depend on how many processes there are. A script that takes more than one worker has to
    keep its own work below ``if __name__ == "__main__":``.

    Args:
        recipe: of the set.
        folder: to write to; ``run.yaml`` in it keeps the recipe.
        workers: processes, each with one thread; 1 works in this one; none takes every processor.
        scheduler: address of a Dask scheduler, whose workers see the same folder by the same name.

    Raises:
        BadInput: a folder that was begun with another recipe, or a sample that cannot be simulated.
        MissingExtra: a scheduler without the package ``distributed``.

    Example:
        >>> recipe = Simulate.of({"count": 2, "microscope": {"fixed": {"scan": [2, 2]}}})
        >>> list(simulate(recipe, Path("few"), workers=1)), list(simulate(recipe, Path("few"), workers=1))
        ([0, 1], [])
    """
    recipe = recipe.with_paths_from(Path.cwd())
    folder = Path(folder).resolve()
    numbers = list_missing(recipe, folder)
    if (folder / "run.yaml").exists():  # others may be at work
        numbers = [int(number) for number in np.random.default_rng().permutation(numbers)]
    with worker_pool(workers, scheduler) as (team, ahead):
        _prepare_folder(recipe, folder)
        with (
            _removed_at_end(folder / SIGN_NAME),
            closing(map_unordered(partial(_write_sample, recipe, folder), numbers, team, ahead)) as found,
        ):
            done = (_require_sample(number, said, folder, recipe) for number, said in found)
            yield from done if recipe.layout == "ours" else _assemble_full_files(folder, done)
    if recipe.layout == "seed":
        samples.assemble_files(folder, folder / samples.WAITING_FOLDER)


@contextmanager
def _removed_at_end(sign: Path) -> Iterator[None]:
    try:
        yield
    finally:
        with suppress(OSError):
            sign.unlink()


def _assemble_full_files(folder: Path, done: Iterator[int]) -> Iterator[int]:
    """The same numbers; files of 700 are put together as they become complete."""
    parts = folder / samples.WAITING_FOLDER
    for number in done:
        path = folder / samples.seed_file_name(number)
        if samples.is_full(path, parts):
            samples.fill_file(path, parts)
        yield number


def _write_sample(recipe: Simulate, folder: Path, number: int) -> str:
    """Simulate and write a sample, unless somebody else has; a sentence when it cannot be.

    This is what other processes run: exceptions with more than a message do not come back from there.
    """
    if _exists(recipe, folder, number):
        return ""
    try:
        with one_thread():
            sample = simulate_sample(recipe, number)
    except BadInput as problem:
        return str(problem)
    path = _sample_path(recipe, folder, number)
    samples.write(sample, path, number=number, seed=recipe.seed, layout=recipe.layout)
    return ""


def _require_sample(number: int, said: str, folder: Path, recipe: Simulate) -> int:
    """The number of a sample that is there."""
    if said:
        place, _, fix = said.partition(": ")
        raise BadInput(place, None, fix)
    if not _exists(recipe, folder, number):
        fix = f"wrote sample {number} where it is not seen from here: share {folder} under this name"
        raise BadInput("--scheduler", None, fix)
    return number


def _exists(recipe: Simulate, folder: Path, number: int) -> bool:
    """Whether a sample is there, in a file of its own or among others."""
    if _sample_path(recipe, folder, number).exists():
        return True
    return recipe.layout == "seed" and number in samples.list_numbers(folder / samples.seed_file_name(number))


def _sample_path(recipe: Simulate, folder: Path, number: int) -> Path:
    place = folder if recipe.layout == "ours" else folder / samples.WAITING_FOLDER
    return place / samples.sample_file_name(number)


def _require_same_recipe(recipe: Simulate, folder: Path) -> None:
    """Refuse a folder that was begun with another recipe."""
    path = folder / "run.yaml"
    if not path.exists():
        if folder.is_dir() and (samples.list_sample_files(folder) or any(folder.glob("simulation_data*.h5"))):
            fix = "holds samples but no run.yaml that says which: name another folder"
            raise BadInput("folder", str(folder), fix)
        return
    if not any(folder.rglob("[!.]*.h5")):
        return  # nothing was written
    begun = Simulate.of(load_yaml(path)).to_full_tree()
    wanted = recipe.with_paths_from(Path.cwd()).to_full_tree()
    for name in wanted:
        if name not in RANGE_FIELDS and begun[name] != wanted[name]:
            fix = f"was begun with another {name}: name another folder, or resume with {path}"
            raise BadInput("folder", str(folder), fix)


def _claim_folder(recipe: Simulate, folder: Path) -> None:
    """Leave the recipe in a folder where no sample is yet, unless another process makes the first of others.

    Raises:
        BadInput: it does.
    """
    _require_same_recipe(recipe, folder)
    sign = folder / SIGN_NAME
    if not (folder / "run.yaml").exists() or not any(folder.rglob("[!.]*.h5")):
        holder = Holder.read(sign)
        is_busy = holder is not None and not holder.is_dead and not holder.is_this_process
        if is_busy and (folder / "run.yaml").read_text(encoding="utf-8") != recipe.to_text():
            fix = f"is being filled by {holder} with another recipe: name another folder"
            raise BadInput("folder", str(folder), fix)
        save_recipe(recipe, folder)
    write_text(sign, Holder.here().to_text())


def _prepare_folder(recipe: Simulate, folder: Path) -> None:
    """Leave the recipe in the folder, and clear away what killed processes have left."""
    make_folder(folder)
    with take_turns(folder):
        _claim_folder(recipe, folder)
    if recipe.layout == "seed":
        remove_stale_files(make_folder(folder / samples.WAITING_FOLDER))
    remove_stale_files(folder)
    for path in folder.rglob(".*.tmp.h5"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > SECONDS_UNTIL_STALE:
                path.unlink()
