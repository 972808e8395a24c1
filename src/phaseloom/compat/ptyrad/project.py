"""A checked PtyRAD project: where its files are, what its numbers mean in our units, what was noted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phaseloom.errors import BadInput
from phaseloom.units import electron_wavelength, photon_wavelength

__all__ = ["Project"]

_FAR = 1e-3
"""Metres: longer ones in an X-ray file are taken for angstrom."""


@dataclass(frozen=True)
class Project:
    """The filled tree of a file, its folder, and a list of what cannot be as it was.

    Attributes:
        tree: sections as `phaseloom.compat.ptyrad.schema.checked` gives them.
        folder: of the file: where its relative paths are looked for after the working folder.
        notes: what a user should know, in words; it grows.
    """

    tree: Mapping[str, Any]
    folder: Path
    notes: list[str] = field(default_factory=list)

    @property
    def init(self) -> Mapping[str, Any]:
        """The section of experiment and data."""
        return self.tree["init_params"]

    @property
    def xray(self) -> bool:
        """Whether photons were scattered."""
        return self.init["probe_illum_type"] == "xray"

    @property
    def wavelength(self) -> float:
        """Angstrom."""
        if self.xray:
            return photon_wavelength(1e3 * self.init["beam_kev"])
        return electron_wavelength(1e3 * self.init["probe_kv"])

    @property
    def thickness(self) -> float:
        """Distance between slices as the file has it, angstrom."""
        return self.angstrom("obj_slice_thickness", self.init["obj_slice_thickness"])

    def note(self, text: str, /) -> None:
        """Something to tell, once."""
        if text not in self.notes:
            self.notes.append(text)

    def path(self, name: str, /) -> str:
        """A file: as named from the working folder, else from the folder of the parameter file."""
        given = Path(name).expanduser()
        beside = self.folder / given
        return str((beside if beside.exists() and not given.exists() else given).absolute())

    def angstrom(self, key: str, value: float, /) -> float:
        """A length of the file in angstrom; X-ray files are in metres."""
        if not self.xray:
            return value
        if abs(value) > _FAR:
            self.note(f"init_params.{key}: {value:g} is read as angstrom: as metres it would be absurd")
            return value
        return 1e10 * value

    def length(self, key: str, value: float, /) -> str:
        """The same as a text of ours."""
        return f"{self.angstrom(key, value):.12g} A"

    def sizes(self) -> tuple[int, int]:
        """Rows and columns of a pattern after cropping."""
        crop, full = self.init["meas_crop"] or [None] * 4, self.init["meas_Npix"]
        return tuple(len(range(full)[slice(*(ends or [None]))]) for ends in crop[2:])  # type: ignore[return-value]

    def scan(self) -> tuple[int, int]:
        """Slow and fast positions after cropping."""
        crop = self.init["meas_crop"] or [None] * 4
        full = (self.init["pos_N_scan_slow"], self.init["pos_N_scan_fast"])
        return tuple(len(range(n)[slice(*(ends or [None]))]) for n, ends in zip(full, crop[:2], strict=True))  # type: ignore[return-value]

    def final(self) -> int:
        """Pixels across a pattern after cropping, padding and resampling."""
        pad, resample = self.init["meas_pad"], self.init["meas_resample"]
        size = self.sizes()[1]
        if pad and pad["mode"]:
            size = max(size, pad["target_Npix"])
        if resample and resample["mode"]:
            size = math.floor(size * min(resample["scale_factors"]))
        return size

    def earlier(self, part: str, /) -> str:
        """The file of an earlier run that a part comes from."""
        name = self.init[f"{part}_params"]
        if not isinstance(name, str):
            raise BadInput(f"init_params.{part}_params", name, "must be the name of a file")
        return self.path(name)
