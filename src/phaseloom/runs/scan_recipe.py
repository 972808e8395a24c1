"""What recipes that work on a scan have in common: where it is, how it is read, what is done to it first."""

import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from phaseloom.data import formats
from phaseloom.data.counts import (
    MAX_LISTED_BRIGHT,
    PartialCounts,
    describe_bright_patterns,
    find_bright_patterns,
    find_saturated_patterns,
    has_one_value,
    list_numbers,
    require_plausible_counts,
)
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import team
from phaseloom.spec import Call, Recipe, load_yaml, part

__all__ = [
    "IN_MEMORY",
    "ScanRecipe",
    "digest_of_scan",
    "find_lit_patterns",
    "keep_part_of_process",
]

log = logging.getLogger(__name__)

IN_MEMORY = Path("in memory")
"""What a recipe has for a file when the scan was handed over by a program."""

LOOKED_AT = (3, 16, 64, 200, 256, 400)
"""Patterns, evenly over a scan, from which curvatures, mean patterns, noise and examples are taken."""


SECTIONS_OF_SCAN_RECIPES = frozenset(
    [
        "axial",
        "batch",
        "block",
        "changes",
        "clip",
        "compare_starts",
        "detector",
        "device",
        "epochs",
        "file",
        "fly",
        "found",
        "halves",
        "holdout",
        "levels",
        "losses",
        "mask",
        "model",
        "noise",
        "object",
        "object_prior",
        "optimizer",
        "outputs",
        "patience",
        "penalties",
        "precision",
        "prepare",
        "preset",
        "probe",
        "projections",
        "propagator",
        "rate",
        "rates",
        "read",
        "seed",
        "snapshots",
        "shape",
        "start",
        "steered",
        "test",
        "tiles",
        "title",
        "turned",
        "validation",
    ]
)
"""All sections that parameter files of reconstructions and of autoencoders may have.

A recipe that is not ``strict`` takes its own from such a file and skips the others (`phaseloom virtual
run.yaml`).
"""


STEPS_THAT_ORIENT = frozenset({"flip", "transpose", "rotate"})
"""Steps of `prepare` by which a recipe states how the detector lies."""

MAX_EPOCHS = 10_000_000
"""Largest number of epochs that a parameter file may ask for."""


class ScanRecipe(Recipe):
    """A recipe of a scan.

    Attributes:
        strict: whether a parameter file may not hold sections of other recipes.
        file: the data.
        read: format and what the file does not say; default: found out.
        prepare: transforms of the scan, in order.
    """

    strict: ClassVar[bool] = False

    file: Path = IN_MEMORY
    read: Call | None = part("phaseloom.data.formats", None, partial=True)
    prepare: tuple[Call, ...] = part("phaseloom.data.prepare", ())

    @classmethod
    def from_path(cls, path: Path | str, settings: Mapping[str, Any] | None = None, /) -> Self:
        """A recipe for a data file, or from a parameter file, with settings changed."""
        path = Path(path)
        if path.suffix in (".yaml", ".yml"):
            return cls.from_tree(load_yaml(path), path.parent, settings)
        recipe = cls.of({"file": str(path)})
        return recipe.with_given_settings(settings)

    @classmethod
    def from_tree(
        cls, tree: dict[str, Any], folder: Path, settings: Mapping[str, Any] | None = None, /
    ) -> Self:
        """A recipe from the tree of a parameter file; relative paths in it start from a folder."""
        own = cls.of(_skip_foreign_sections(cls, tree))
        file = {} if own.file == IN_MEMORY else {"file": folder / own.file}
        recipe = own.with_paths_from(folder).model_copy(update=file)
        return recipe.with_given_settings(settings)

    @property
    def states_orientation(self) -> bool:
        """Whether its steps state how the detector lies against the raster."""
        return any(step.name in STEPS_THAT_ORIENT for step in self.prepare)

    def scan(self, given: Scan4D | None = None, /) -> Scan4D:
        """The data, read or handed over, and prepared, without blank and saturated patterns."""
        whole = self.scan_with_blanks(given)
        self.check_whole(whole)
        lit = find_lit_patterns(whole, self.file.name, names_bright=True)
        return whole if lit.all() else whole.select(lit)

    def scan_with_blanks(self, given: Scan4D | None = None, /) -> Scan4D:
        """The same with blank and saturated patterns in their places."""
        scan = _read_scan(self) if given is None else given
        for step in self.prepare:
            scan = step(scan)
        return scan

    def check_whole(self, whole: Scan4D, /) -> None:
        """Refuse data by what is lost with their blank patterns; nothing here."""

    def require_file(self) -> Path:
        """The file of the data, or a sentence on why nothing can be read from it."""
        if self.file == IN_MEMORY:
            given = "file" in self.model_fields_set
            fix = "is where a program had the data: hand them over again, Job.begin(recipe, scan=scan)"
            raise BadInput("file", *(("in memory", fix) if given else (None, "is missing: write it")))
        if self.file.is_dir() and self.file.suffix != ".zarr":
            raise BadInput(
                "file",
                str(self.file),
                "is a folder: phaseloom look lists its files; --resume continues a run",
            )
        if not self.file.exists():
            raise BadInput("file", str(self.file), "does not exist: give the path of the data")
        return self.file


def _skip_foreign_sections(kind: type[ScanRecipe], tree: dict[str, Any]) -> dict[str, Any]:
    """The sections of a recipe that is not strict; with an unknown one the tree stays, to be refused."""
    fields = {*kind.model_fields, "version"}
    if kind.strict or not set(tree) <= fields | SECTIONS_OF_SCAN_RECIPES:
        return tree
    return {name: value for name, value in tree.items() if name in fields}


def _read_scan(recipe: ScanRecipe) -> Scan4D:
    several = team().world_size > 1  # each keeps a part only
    if recipe.read is None:
        return formats.read(recipe.require_file(), lazy=several)
    return formats.read(
        recipe.require_file(), format=recipe.read.name, knobs=recipe.read.values, lazy=several
    )


def keep_part_of_process(
    scan: Scan4D, /, *, known: np.ndarray | None = None, owners: np.ndarray | None = None
) -> Scan4D:
    """A scan of which this process keeps its part of the patterns, and some that all look at.

    Args:
        scan: all of it, in memory or in its file.
        known: numbers of further patterns that all look at.
        owners: the process of each pattern, where the object is in tiles.
    """
    if team().world_size == 1:
        return scan
    every = np.arange(len(scan))
    some = [np.linspace(0, len(scan) - 1, min(len(scan), many)).round().astype(int) for many in LOOKED_AT]
    some += [np.linspace(0, len(scan) - 1, min(len(scan), many)).astype(int) for many in LOOKED_AT]
    some += [] if known is None else [known]
    return replace(
        scan, counts=PartialCounts.of(scan.counts, every[team().owns(every, owners)], np.concatenate(some))
    )


def digest_of_scan(scan: Scan4D, /) -> str:
    """A hash of the patterns, which one process reads and all know."""
    return team().broadcast(scan.digest() if team().is_main else "")


def find_lit_patterns(scan: Scan4D, name: str, /, *, names_bright: bool = False) -> np.ndarray:
    """Which patterns ``(n,)`` can be used: neither blank (a closed shutter, a lost frame) nor saturated.

    Those that cannot are logged with their numbers. Saturated ones hold one value in all trusted pixels and
    more than four times the counts of the others, and are few (`find_saturated_patterns`).

    Args:
        scan: the data.
        name: of their file, for messages.
        names_bright: whether the few patterns that are far brighter than the others are named in the log.

    Raises:
        BadInput: no counts at all, or counts that cannot be.
    """
    parts = (np.arange(start, min(start + 256, len(scan))) for start in range(0, len(scan), 256))
    surveys = [_survey_counts(scan.counts[index][:, scan.mask]) for index in parts]
    lit, lowest, highest, totals, flat = (np.concatenate(part) for part in zip(*surveys, strict=True))
    require_plausible_counts(float(lowest.min()), float(highest.max()), name)
    if not lit.any():
        raise BadInput(name, None, "holds no counts at all: check the data set and the mask")
    many = len(lit)
    if not lit.all():
        blank = list_numbers(np.flatnonzero(~lit))
        log.warning("%s: %d of %d patterns are blank and were left out: %s", name, (~lit).sum(), many, blank)
    saturated = find_saturated_patterns(totals, flat)
    if len(saturated):
        said = "%s: %d of %d patterns are saturated (one value in all pixels) and were left out: %s"
        log.warning(said, name, len(saturated), many, list_numbers(saturated))
        lit[saturated] = False
    used = np.where(lit, totals, 0.0)
    if names_bright and len(bright := find_bright_patterns(used)):
        said = describe_bright_patterns(used, np.arange(many))
        numbers = bright[:MAX_LISTED_BRIGHT].tolist()
        fix = f"where they are damaged, leave them out (prepare: without: {{numbers: {numbers}}})"
        log.warning("%s: %s: %s", name, said, fix)
    return lit


def _survey_counts(pixels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of patterns ``(n, pixel)``: which have counts, lowest and highest value, sum, which hold one value."""
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pattern without any number
        lowest, highest = np.fmin.reduce(pixels, axis=1), np.fmax.reduce(pixels, axis=1)
        totals = np.asarray(np.nansum(pixels, axis=1, dtype=np.float64))
        return np.asarray(pixels.any(1)), lowest, highest, totals, has_one_value(pixels, highest, totals)
