"""A checked PtyRAD file with its folder: paths, lengths in our units, sizes after cropping, notes."""

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Project"]

MODEL_FILE = re.compile(r"model_iter\d+\.hdf5")
"""Names of the files that runs are continued from."""

RUN_DATE = re.compile(r"^\d{8}([-_]\d{6})?[-_]")
"""Date, or date and time, at the beginning of the name of a run folder."""

MAX_XRAY_LENGTH = 1e-3
"""Metres: longer lengths in an X-ray file are taken for angstrom."""


@dataclass(frozen=True)
class Project:
    """A checked file and the notes of its translation.

    Attributes:
        tree: sections as `phaseloom.compat.ptyrad.schema.check_tree` gives them.
        folder: that of the file; relative paths are resolved here after the working folder.
        notes: what a user should know; it grows.
    """

    tree: Mapping[str, Any]
    folder: Path
    notes: list[str] = field(default_factory=list)

    @property
    def init(self) -> Mapping[str, Any]:
        """The section of experiment and data."""
        return self.tree["init_params"]

    @property
    def model(self) -> Mapping[str, Any]:
        """The section of model and optimiser."""
        return self.tree["model_params"]

    @property
    def recon(self) -> Mapping[str, Any]:
        """The section of how a run goes."""
        return self.tree["recon_params"]

    @property
    def xray(self) -> bool:
        """Whether the beam is of photons."""
        return self.init["probe_illum_type"] == "xray"

    @property
    def thickness(self) -> float:
        """Distance between slices as the file has it, angstrom."""
        return self.to_angstrom("obj_slice_thickness", self.init["obj_slice_thickness"])

    def note(self, text: str, /) -> None:
        """Append a note, once."""
        if text not in self.notes:
            self.notes.append(text)

    def resolve_path(self, name: str, /) -> str:
        """A file as named from the working folder, else from the folder of the parameter file.

        PtyRAD names the folder of a run by its settings. Where there is none of that name, a file of the same
        name of a run of ours beside it is taken: the one that is named most alike, of these the newest.
        """
        given = Path(name).expanduser()
        beside = self.folder / given
        if given.exists() or beside.exists():
            return str((given if given.exists() else beside).absolute())
        runs = [path for there in (given, beside) for path in _find_in_runs_beside(there)]
        if not runs:
            return str(given.absolute())
        found = max(runs, key=lambda path: (_count_equal_letters(path, given), path.stat().st_mtime))
        self.note(f"{name} is not there: {found} is taken, which a run of Phaseloom left")
        return str(found.absolute())

    def to_angstrom(self, key: str, value: float, /) -> float:
        """A length of the file in angstrom; X-ray files are in metres."""
        if not self.xray:
            return value
        if abs(value) > MAX_XRAY_LENGTH:
            self.note(f"init_params.{key}: {value:g} is read as angstrom: as metres it is not plausible")
            return value
        return 1e10 * value

    def format_length(self, key: str, value: float, /) -> str:
        """The same as text with its unit."""
        return f"{self.to_angstrom(key, value):.12g} A"

    def cropped_shape(self) -> list[int]:
        """Slow and fast positions, rows and columns of a pattern after cropping."""
        return [max(end - first, 0) for first, end in self.crop_ranges()]

    def prepared_size(self) -> int:
        """Pixels across a pattern after cropping, padding and resampling."""
        pad = self.init["meas_pad"]
        resample = self.init["meas_resample"]
        size = self.cropped_shape()[3]
        if pad and pad["mode"]:
            size = max(size, pad["target_Npix"])
        if resample and resample["mode"]:
            size = math.floor(size * min(resample["scale_factors"]))
        return size

    def crop_ranges(self) -> list[list[int]]:
        """First and end of what ``meas_crop`` leaves of each axis."""
        init = self.init
        full = (init["pos_N_scan_slow"], init["pos_N_scan_fast"], init["meas_Npix"], init["meas_Npix"])
        crop = init["meas_crop"] or [None] * 4
        pairs = zip(crop, full, strict=True)
        return [list(slice(*(ends or [None])).indices(size)[:2]) for ends, size in pairs]


def _find_in_runs_beside(path: Path) -> list[Path]:
    """Files of the same name in the runs of ours that lie beside a folder that does not exist."""
    folder = path.parent
    if folder.exists() or not MODEL_FILE.fullmatch(path.name) or not folder.parent.is_dir():
        return []
    return [run / path.name for run in folder.parent.iterdir() if (run / path.name).is_file()]


def _count_equal_letters(found: Path, named: Path) -> int:
    """Letters at the beginning that the names of two run folders share, dates left out."""
    names = [RUN_DATE.sub("", path.parent.name) for path in (found, named)]
    pairs = zip(*names, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
