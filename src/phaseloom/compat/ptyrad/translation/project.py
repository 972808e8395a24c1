"""A checked PtyRAD file with its folder: paths, lengths in our units, sizes after cropping, notes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Project"]

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
        """A file as named from the working folder, else from the folder of the parameter file."""
        given = Path(name).expanduser()
        beside = self.folder / given
        return str((beside if beside.exists() and not given.exists() else given).absolute())

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
