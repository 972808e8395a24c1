"""What a file itself says of the experiment, and one message on what neither it nor the user says."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from phaseloom.data.formats.quantities.beam_hints import BeamHints
from phaseloom.data.formats.quantities.near_field import FOCUS_HELP
from phaseloom.errors import BadInput

__all__ = ["About", "Header", "MissingValues", "list_missing", "merge"]

ARRAY_NAMES = ("positions", "mask", "background", "flat", "weights", "heights")
TEXT_NAMES = ("metadata", "hints", "oriented", "wavelength")


@dataclass(frozen=True, kw_only=True)
class About:
    """What the table of formats says of one (`phaseloom.data.format_table`).

    Attributes:
        files: endings, and what lies beside.
        reading: how patterns are read.
        states: what a file states of the experiment, besides what is in its arrays.
        compared: with which other reader, on the same bytes.
    """

    files: str
    reading: str
    states: str
    compared: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """What a file says of the experiment; knobs and a side-car win over every value of it.

    A reader fills in what it finds and hands the value to `phaseloom.data.formats.setup.build_scan`, which
    asks the user for the rest. Lengths are in angstrom, angles in radian, energies in electronvolt.

    Attributes:
        energy: of a photon, or kinetic energy of an electron.
        beam: what is diffracted.
        angle: per detector pixel, one number or (y, x). One of ``angle``, ``pixel``, or ``distance`` with
            ``detector_pixel`` is needed; ``angle`` wins.
        pixel: of the object.
        distance: object to detector.
        detector_pixel: edge of a detector pixel.
        focus: focus to object, of a near field.
        step: of the raster (slow, fast).
        grid: raster as (slow, fast) numbers of patterns.
        rotation: of the positions, from the row axis towards the column axis.
        wavelength: where the file states it more precisely than the energy.
        positions: ``(n, 2)`` of the beam on the object (row, column).
        mask: ``(y, x)``, True where a pixel is good.
        background: ``(y, x)`` expected counts without beam.
        flat: ``(y, x)`` detector efficiency, 1 = nominal.
        weights: ``(n,)`` relative intensity of each pattern.
        heights: ``(n,)`` position of the beam along its axis.
        oriented: whether the file states how detector axes lie against scan axes.
        metadata: text by name: instrument, detector, date, sample, dwell time, ``original header``.
        hints: for keys of `Setup` that the file does not state: where in this format's software they are
            found.

    Example:
        >>> Header(energy=200e3, step=(4.0, 4.0), metadata={"instrument": "EMPAD"}).to_setup()
        {'energy': 200000.0, 'step': (4.0, 4.0)}
    """

    energy: float | None = None
    beam: Literal["electron", "photon"] | None = None
    angle: float | tuple[float, float] | None = None
    pixel: float | None = None
    distance: float | None = None
    detector_pixel: float | None = None
    focus: float | None = None
    step: float | tuple[float, float] | None = None
    grid: tuple[int, int] | None = None
    rotation: float | None = None
    wavelength: float | None = None
    positions: np.ndarray | None = None
    mask: np.ndarray | None = None
    background: np.ndarray | None = None
    flat: np.ndarray | None = None
    weights: np.ndarray | None = None
    heights: np.ndarray | None = None
    oriented: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)

    def to_setup(self) -> dict[str, Any]:
        """The values that are keys of `Setup`, without arrays."""
        names = [one.name for one in fields(self) if one.name not in (*ARRAY_NAMES, *TEXT_NAMES)]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


NEEDS = {
    "energy": ("200 keV", "the accelerating voltage; of X-rays the photon energy, and beam: photon"),
    "angle": (
        "0.5 mrad",
        "semiangle of the beam / radius of the bright-field disk in pixels; or semiangle, and the disk is "
        "fitted; or pixel, or distance and detector_pixel",
    ),
    "distance": ("1 m", "from the object to the detector (the camera length)"),
    "detector_pixel": ("55 um", "the edge of a pixel of the detector, in its data sheet"),
    "focus": ("3.65 mm", "from the focus of the beam to the sample; inf for a parallel beam"),
    "grid": ("[64, 64]", "rows and columns of the scan (slow, fast)"),
    "step": (
        "0.4 A",
        "the scan's field of view / number of positions along it, in the microscope's scan dialog; or "
        "positions",
    ),
    "dwell": ("10 us", "the time at a place of the scan"),
    "shape": ("[64, 64, 128, 128]", "[pattern, y, x] or [slow, fast, y, x], from the detector's description"),
}
"""What a scan cannot do without: an example of each, and where it is found."""


OF_XRAYS = {
    "beam": ("photon", "else electrons"),
    "energy": ("8 keV", "of the photons"),
    "distance": ("2 m", "from the sample to the detector"),
    "detector_pixel": ("75 um", "the edge of a pixel of the detector, in its data sheet"),
    "step": ("500 nm", "of the raster; or positions"),
}
"""The same of X-rays, where it is something else."""


class MissingValues(BadInput):
    """A file that does not say everything that is needed: one message lists all of it.

    Attributes:
        missing: what is missing, each with where it is found.
        known: values of `Setup` that are known already, in inner units.
        from_file: which of these the file states.
        holds: what is in the file, in words; empty where it was not looked at.
        hints: what the file hints at, where that was looked for.
    """

    def __init__(
        self,
        path: Path,
        missing: Mapping[str, str],
        known: Mapping[str, Any],
        from_file: frozenset[str],
        *,
        holds: str = "",
        hints: BeamHints | None = None,
    ):
        self.holds = holds
        self.hints = hints or BeamHints()
        self.missing = dict(missing)
        self.known = dict(known)
        self.from_file = from_file
        lines = [f"{name}: {example_of(name, self.hints)} ({how})" for name, how in missing.items()]
        them = "it" if len(missing) == 1 else "them"
        command = f"phaseloom look {shlex.quote(str(path))} --write-sidecar"
        beside = f"{path.name}.phaseloom.yaml ({command} starts it)"
        fix = (
            f"does not state {join_words(list(missing))}: write {them} in {beside} "
            f"or give {them} as knobs (--set read.FORMAT.{next(iter(missing))}=...): "
        )
        asked = fix + "; ".join(lines)
        doubt = missing.get("focus", "")
        if doubt.startswith("check "):  # a likely mistake comes before what follows from it
            what = f"{example_of('focus')} ({FOCUS_HELP})"
            asked = f"{doubt.removesuffix(f': {FOCUS_HELP}')}, and the file {fix}focus: {what}"
        super().__init__(path.name, None, asked)


def example_of(name: str, hints: BeamHints | None = None) -> str:
    """A value of a missing setting, as a side-car has it: the one that a file hints at, or any."""
    if hints is not None and hints.beam == "photon":
        return hints.values.get(name) or OF_XRAYS.get(name, NEEDS.get(name, ("...",)))[0]
    return NEEDS[name][0] if name in NEEDS else "..."


def ask_as_xrays(
    missing: Mapping[str, str], hints: BeamHints, known: Mapping[str, Any] = MappingProxyType({}), /
) -> dict[str, str]:
    """What is missing of a scan, as someone at a beamline states it: see `OF_XRAYS`.

    Example:
        >>> list(ask_as_xrays({"energy": "", "angle": "", "step": ""}, BeamHints("photon")))
        ['beam', 'energy', 'distance', 'detector_pixel', 'step']
    """
    names = ["beam"]
    for name in missing:
        names += ["distance", "detector_pixel"] if name == "angle" else [name]
    if "positions" in hints.values and {"grid", "step"} & set(names):
        names = [name for name in names if name not in ("grid", "step")] + ["positions"]
        names += ["positions_unit"] * ("positions_unit" in hints.values)
    names = [name for name in names if name not in known]
    return {
        name: hints.places.get(name) or OF_XRAYS.get(name, ("", missing.get(name, "")))[1] for name in names
    }


def join_words(words: list[str]) -> str:
    """Names as a sentence lists them.

    Example:
        >>> join_words(["energy", "angle", "step"])
        'energy, angle and step'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def merge(setup: Mapping[str, Any], header: Header, /) -> tuple[dict[str, Any], frozenset[str]]:
    """What the user says, with what only the file says added; and which keys are of the file.

    The sampling is one statement: a user's ``angle``, ``pixel`` or ``semiangle`` replaces the file's detector
    pixel as well.

    Example:
        >>> known, from_file = merge({"pixel": 0.2}, Header(energy=80e3, angle=1e-3))
        >>> known, sorted(from_file)
        ({'energy': 80000.0, 'pixel': 0.2}, ['energy'])
    """
    given = {name: value for name, value in setup.items() if value is not None}
    file = header.to_setup()
    if "angle" in file or "pixel" in file:
        file.pop("pixel" if "angle" in file else "detector_pixel", None)
        if "distance" in file:
            file.pop("detector_pixel", None)
    if {"angle", "pixel", "semiangle"} & set(given):
        file = {k: v for k, v in file.items() if k not in ("angle", "pixel", "detector_pixel")}
    if "detector_pixel" in given and "distance" in given | file:
        file = {k: v for k, v in file.items() if k not in ("angle", "pixel")}
    if "positions" in given or header.positions is not None:
        file.pop("step", None)
    return file | given, frozenset(file) - frozenset(given)


def list_missing(
    known: Mapping[str, Any], header: Header, /, *, has_raster: bool, count: int
) -> dict[str, str]:
    """What a scan needs and nobody says, each with where it is found.

    Args:
        known: values of `Setup` of file and user.
        header: of the file.
        has_raster: whether the axes of the array are a raster.
        count: number of patterns; 0: not known.

    Example:
        >>> list(list_missing({"energy": 80e3}, Header(), has_raster=True, count=9))
        ['angle', 'step']
    """
    names = [] if "energy" in known or header.wavelength is not None else ["energy"]
    flight = [name for name in ("distance", "detector_pixel") if name not in known]
    if flight and not {"angle", "pixel", "semiangle"} & set(known):
        names += ["angle"] if len(flight) == 2 else flight
    if "positions" not in known and (header.positions is None or "step" in known):
        names += [] if has_raster or "grid" in known else ["grid"]
        names += [] if "step" in known else ["step"]
    found = {name: header.hints.get(name, NEEDS[name][1]) for name in names}
    if "grid" in found and count:
        found["grid"] += f"; slow times fast must be {count}"
    return found
