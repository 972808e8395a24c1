"""A search for the knobs of a run: many trials, one study, any number of processes.

``search.yaml`` says which knobs of ``run.yaml`` are searched, by their paths, and how. The folder of a
search holds ``base.yaml``, ``search.yaml``, ``study.journal``, a run folder for each trial, and at the end
``best.yaml``, ``trials.csv`` and ``report.png``.
"""

import hashlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.files import make_folder, write_text
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.runs.control import require_run_folder
from phaseloom.runs.folder import save_recipe
from phaseloom.runs.parameter_paths import set_parameters
from phaseloom.runs.scan_recipe import MAX_EPOCHS, ScanRecipe
from phaseloom.search.space import Distribution, Space
from phaseloom.search.trials import Trial, find_trial_class, read
from phaseloom.spec import Call, Recipe, load_yaml, part

__all__ = ["Plan", "Search", "load_engine", "relocate_files"]

SHARE_OF_LAST_EPOCHS = 0.1
"""Share of the epochs of a reconstruction that learn from all patterns, see
`phaseloom.reconstruction.protocol`."""


class Search(Recipe):
    """What is searched, and how: its parameters are those of the file ``search.yaml``.

    Attributes:
        over: knobs by their paths in the run file: ``[1, 2, 4]``, or ``{low: 50 A, high: 200 A}`` with
            ``log`` or ``step``, and ``when`` for those that are there with some values of others only.
        sampler: how the next trial is chosen.
        pruner: when a trial is given up; default: median, where the objective is known after every epoch.
        objective: what is made small; default: the hold-out loss, or the loss where nothing is held out.
        trials: how many; default: 30, or all of a grid.
        seconds: after which no trial is begun.
        workers: processes of this machine; others may join.
        storage: URL of a data base (SQLAlchemy's); default: a journal in the folder.
        study: name in the data base; default: that of the folder.
        epochs: of a trial; default: those of the run file.
        share: of the patterns, or of the views of an epoch, that a trial learns from.
        finals: best trials that are run again as the run file says, where trials were smaller.
        warm: begin each trial with what the best one so far has found.
        keep: best trials whose results stay on the disk.
        silence: seconds without a sign of life after which a process is taken for dead.
        seed: of everything that is drawn by the search; each trial has the seed of the run file.
        title: for the folder.

    Example:
        >>> Search.of({"over": {"epochs": [10, 20]}, "sampler": "grid"}).over["epochs"].choices
        (10, 20)
    """

    over: Mapping[str, Distribution] = Field(default_factory=dict)
    sampler: Call = part("phaseloom.search.samplers", "tpe")
    pruner: Call | None = part("phaseloom.search.pruners", None)
    objective: Call | None = part("phaseloom.search.objectives", None)
    trials: int | None = Field(None, ge=1, strict=True)
    seconds: float | None = Field(None, gt=0)
    workers: int = Field(1, ge=1, strict=True)
    storage: str | None = None
    study: str = ""
    epochs: int | None = Field(None, ge=1, le=MAX_EPOCHS, strict=True)
    share: float | None = Field(None, gt=0, le=1)
    finals: int = Field(3, ge=0, strict=True)
    warm: bool = False
    keep: int = Field(6, ge=1, strict=True)
    silence: int = Field(60, ge=2, strict=True)
    seed: int = Field(0, ge=0, lt=2**32, strict=True)
    title: str = ""

    @classmethod
    def from_path(cls, path: Path | str, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A search from a file, with settings changed."""
        recipe = cls.of(load_yaml(Path(path)))
        return recipe.with_settings(settings) if settings else recipe


class Plan:
    """A search together with the run that it changes: what every process of it knows.

    Attributes:
        folder: of the search.
        search: its recipe, with objective and pruner decided.
        base: the recipe of the run.
        kind: what runs it.
        space: the knobs.
        objective: see `phaseloom.search.objectives`.
    """

    def __init__(self, folder: Path, search: Search, base: Any):
        self.folder = folder
        self.base = base
        self._studies: dict[str, Any] = {}
        self.kind: type[Trial] = find_trial_class(base)
        self.space = Space.of(base, search.over)
        self.search = _settle(search, base)
        assert self.search.objective is not None
        self.objective = self.search.objective()
        _check_search(self)

    @classmethod
    def begin(cls, base: Recipe, search: Search, folder: Path | str, /) -> "Plan":
        """A new search in a folder.

        Raises:
            BadInput: a folder that holds one, knobs that are not there, settings that do not go together.
            MissingExtra: Optuna is not installed.
        """
        load_engine()
        folder = Path(folder).resolve()
        if (folder / "search.yaml").exists() or (folder / "run.yaml").exists():
            fix = "holds a run or a search: name a new folder, or use --resume to go on with it"
            raise BadInput("--out", str(folder), fix)
        named = {"study": search.study or folder.name, "storage": _resolve_sqlite(search.storage)}
        if isinstance(base, ScanRecipe):
            base.require_file()
        plan = cls(folder, search.model_copy(update=named), base.with_paths_from(Path.cwd()))
        if search.sampler.name == "grid":
            load_engine().make_tickets(plan.space, 1, grid=True, seed=0)
        size = make_smaller_settings(plan)
        make_folder(folder)
        (folder / "study.journal").unlink(missing_ok=True)  # of a search that was killed as it began
        study = plan.open_study("trials", fresh=True)
        study.set_user_attr("smaller", size)
        study.set_user_attr("folder", str(folder))
        base_file = plan.base.to_text(defaults=False)
        study.set_user_attr("of", _hash_identity(plan, base_file))
        write_text(folder / "base.yaml", base_file)
        save_recipe(plan.search, folder, name="search.yaml")
        plan.enqueue_tickets()
        return plan

    @classmethod
    def at(cls, folder: Path | str, /, **changes: Any) -> "Plan":
        """The search of a folder.

        Args:
            folder: that holds one.
            changes: settings of it that are other from now on: ``trials``, ``seconds``, ``workers``.

        Raises:
            BadInput: no search there, or another one in the data base.
        """
        load_engine()
        folder = require_run_folder(
            Path(folder).resolve(), what="a search", files=("search.yaml", "base.yaml")
        )
        search = Search.from_path(folder / "search.yaml")
        changed = search.model_copy(
            update={key: value for key, value in changes.items() if value is not None}
        )
        if changed != search:
            save_recipe(changed, folder, name="search.yaml")
        plan = cls(folder, changed, read(folder / "base.yaml")[1])
        base_file = (folder / "base.yaml").read_text(encoding="utf-8")
        attributes = plan.open_study("trials").user_attrs
        if attributes.get("of") != _hash_identity(plan, base_file):
            fix = "holds no search of this run file and these knobs: was folder or data base exchanged?"
            raise BadInput("storage", search.study, fix)
        plan.base = relocate_files(plan.base, attributes.get("folder", folder), folder)
        plan.enqueue_tickets()
        return plan

    def open_study(self, part: str, /, *, fresh: bool = False) -> Any:
        """The study of the trials, or of the finals."""
        if part not in self._studies:
            name = self.search.study if part == "trials" else f"{self.search.study} {part}"
            self._studies[part] = load_engine().open_study(
                self.search.storage, self.folder, name, fresh=fresh
            )
        return self._studies[part]

    def enqueue_tickets(self) -> None:
        """See to it that as many trials wait, or are done, as the search file orders."""
        engine = load_engine()
        search = self.search
        grid = search.sampler.name == "grid"
        wanted = engine.make_tickets(self.space, search.trials, grid=grid, seed=search.seed)
        with engine.AskLock(self.folder):
            engine.enqueue_tickets(self.open_study("trials"), wanted)

    def make_recipe(self, params: Mapping[str, Any], part: str, /) -> Any:
        """The recipe of a trial, small unless it is a final."""
        recipe = self.space.apply(self.base, params)
        size = {} if part == "finals" else dict(self.size)
        step = size.pop("prepare", None)
        if step is not None:
            size["prepare"] = [*recipe.to_full_tree()["prepare"], step]
        return set_parameters(recipe, size)

    @cached_property
    def size(self) -> Mapping[str, Any]:
        """Settings that make a trial smaller than the run; empty: it is not."""
        return self.open_study("trials").user_attrs["smaller"]

    @property
    def epochs(self) -> int:
        """Of a trial, where they are not searched."""
        return int(self.search.epochs or self.base.epochs)


def _hash_identity(plan: Plan, base_file: str) -> str:
    """A hash that tells the study of a search from others: the searched paths and the text of the run file.

    The text is that of the file as it was written: knobs may have other names since.
    """
    identity = [sorted(knob.path for knob in plan.space.knobs), base_file]
    return hashlib.blake2b(repr(identity).encode(), digest_size=16).hexdigest()


def relocate_files(recipe: Any, old: Path | str, new: Path | str, /) -> Any:
    """A recipe that finds its files again after the folder of a search was moved together with them.

    A file that is not where it was is looked for where it lay as seen from the folder.

    Args:
        recipe: with absolute paths, as ``base.yaml`` has them.
        old: the folder when the search was begun.
        new: the folder today.
    """

    def relocate(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: relocate(value) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return [relocate(value) for value in node]
        if not isinstance(node, str) or not Path(node).is_absolute() or Path(node).exists():
            return node
        moved = Path(os.path.normpath(Path(new, os.path.relpath(node, old))))
        return str(moved) if moved.exists() else node

    return recipe if str(old) == str(new) else type(recipe).of(relocate(recipe.to_tree()))


def _resolve_sqlite(url: str | None) -> str | None:
    """A file of SQLite by its whole path: a search may be resumed from any folder."""
    scheme, slashes, name = (url or "").partition(":///")
    if scheme != "sqlite" or not slashes or not name or name.startswith((":", "file:")):
        return url
    return f"sqlite:///{Path(name).resolve()}"


def load_engine() -> Any:
    """The module that works on studies of Optuna, which is an optional dependency.

    Raises:
        MissingExtra: Optuna is not installed.
    """
    try:
        from phaseloom.search import study
    except ModuleNotFoundError as problem:
        raise MissingExtra("search", "optuna", "search") from problem
    return study


def _settle(search: Search, base: Any) -> Search:
    """A search with the objective and the pruner that its run allows, where it leaves them open."""
    has_holdout = getattr(base, "holdout", 1.0) > 0
    objective = search.objective or Call("phaseloom.search.objectives", "holdout" if has_holdout else "loss")
    if objective.name == "holdout" and not has_holdout and "holdout" not in search.over:
        raise BadInput("objective", "holdout", "needs something held out: write holdout: 0.1 in the run file")
    if objective.name in ("frc", "contrast") and not isinstance(base, Reconstruct):
        raise BadInput("objective", objective.name, "is of reconstructions: take holdout, loss or metric")
    early = objective().each is not None
    pruner = search.pruner or Call("phaseloom.search.pruners", "median" if early else "none")
    if not early and pruner.name != "none":
        fix = f"has nothing to go by: {objective().name} is known at the end only; write pruner: none"
        raise BadInput("pruner", pruner.name, fix)
    return search.model_copy(update={"objective": objective, "pruner": pruner})


def _check_search(plan: Plan) -> None:
    """Refuse what would find nothing, or not what was meant."""
    search = plan.search
    paths = [knob.path for knob in plan.space.knobs]
    for path in paths:
        if path.split(".")[0] in plan.objective.unlike:
            other = ", or frc" if isinstance(plan.base, Reconstruct) else ""
            fix = f"changes what {plan.objective.name} means: take objective: metric{other}"
            raise BadInput(f"over: {path}", None, fix)
        if path in ("seed", "device", "title", "file"):
            raise BadInput(f"over: {path}", None, "is nothing to be searched")
        if path.startswith("probe.") and path.endswith(".defocus") and _has_automatic_start(plan.base):
            fix = "is found by the automatic start of every run: write start: none in the run file"
            raise BadInput(f"over: {path}", None, fix)
    if search.epochs is not None and "epochs" in paths:
        raise BadInput("epochs", search.epochs, "is searched: leave one of the two out")
    if search.epochs is not None and search.epochs > plan.base.epochs:
        fix = f"is more than the {plan.base.epochs} of the run file: write as many there, or fewer here"
        raise BadInput("epochs", search.epochs, fix)
    if search.warm:
        _check_warm_start(plan, paths)


def _has_automatic_start(base: Any) -> bool:
    return getattr(base, "start", None) is not None and base.start.name != "none"


def _check_warm_start(plan: Plan, paths: list[str]) -> None:
    """Refuse warm starts that could not be, and those after which nothing is judged by what is unseen."""
    name = type(plan.base).__name__
    base = plan.base
    objective = plan.search.objective
    assert objective is not None
    first = {path.split(".")[0] for path in paths}
    if name not in ("Reconstruct", "Train"):
        raise BadInput("warm", True, "is of reconstructions and of networks that read phases")
    if first & {"read", "prepare", "model", "stitching", "stage"}:
        raise BadInput("warm", True, "does not go with a search over what changes the shape of things")
    if _has_automatic_start(base):
        raise BadInput("warm", True, "needs start: none in the run file")
    if {"object", "probe"} <= first:
        raise BadInput("warm", True, "has nothing left to hand on")
    if objective.name == "frc":
        raise BadInput("warm", True, "makes both halves agree, which begin alike: take another objective")
    if name == "Reconstruct" and objective.name == "holdout" and int(SHARE_OF_LAST_EPOCHS * plan.epochs):
        fix = "begins with what has learned from all patterns, in its last epochs: take objective: loss"
        raise BadInput("warm", True, fix)


def make_smaller_settings(plan: Plan, /) -> dict[str, Any]:
    """Settings that make a trial as small as the search says; empty: it is the run.

    A share of a raster is the block in its middle, of other scans a piece from the middle of the list.

    Raises:
        BadInput: a share of what cannot be shared.
    """
    search = plan.search
    base = plan.base
    out: dict[str, Any] = {} if search.epochs in (None, base.epochs) else {"epochs": search.epochs}
    if search.share is None or search.share == 1:
        return out
    if "views" in type(base).model_fields:
        return out | {"views": max(1, round(search.share * base.views))}
    if "prepare" not in type(base).model_fields:
        raise BadInput("share", search.share, "is of scans and of views: make trials smaller by epochs")
    scan = base.scan()
    if scan.grid is None:
        return out | {"prepare": {"select": _cut_middle(len(scan), search.share)}}
    edge = search.share**0.5
    sides = [[*_cut_middle(size, edge).values()] for size in scan.grid]
    return out | {"prepare": {"region": {"rows": sides[0], "columns": sides[1]}}}


def _cut_middle(count: int, share: float) -> dict[str, int]:
    kept = max(1, round(share * count))
    first = (count - kept) // 2
    return {"start": first, "stop": first + kept}
