"""What an unknown HDF5 file hints at: X-rays or electrons, and values that its side-car may propose.

Nothing here is used to read a file: a user confirms it in the side-car.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import h5py
import numpy as np

from phaseloom.data.formats.files import decode_text
from phaseloom.data.formats.quantities.tables import COLUMN_NAMES, ROW_NAMES
from phaseloom.data.formats.quantities.unit_names import QUANTITIES, normalise
from phaseloom.units import PLANCK_TIMES_C

__all__ = ["BeamHints", "find_beam_hints"]

SuspectedBeam = Literal["photon", "electron"]

WORDS_OF_XRAYS = {
    "eiger",
    "pilatus",
    "jungfrau",
    "mythen",
    "maxipix",
    "xspress",
    "undulator",
    "monochromator",
}
WORDS_OF_XRAYS |= {"mono", "dcm", "synchrotron", "beamline", "zoneplate", "fzp", "xray", "xrays", "photon"}
WORDS_OF_XRAYS |= {"photons", "samx", "samy", "sls", "esrf", "petra", "maxiv", "csaxs", "cxi", "xfel", "lcls"}
"""In names of members, of attributes and in their texts: detectors, parts and places of beamlines."""

WORDS_OF_ELECTRONS = {"electron", "electrons", "stem", "tem", "haadf", "semiangle", "convergence", "kv"}
WORDS_OF_ELECTRONS |= {
    "voltage",
    "tension",
    "cameralength",
    "titan",
    "themis",
    "arm200",
    "nion",
    "empad",
    "arina",
    "celeritas",
}

DETECTOR_PIXELS = {"eiger": 75, "pilatus": 172, "jungfrau": 75, "maxipix": 55, "medipix": 55, "merlin": 55}
"""Edge of a pixel by the detector's name, micrometres (data sheets)."""

PHOTON_ENERGIES = (200.0, 40e3)
"""Energies, eV, at which X-ray ptychography is done; electrons mostly have more."""

ENERGY_NAMES = {"energy", "photonenergy", "incidentenergy", "beamenergy", "monoenergy", "hv", "ev", "kev"}
MIN_DISTANCE_IN_MILLIMETRES = 100.0
"""A number without a unit from which on it is not of metres: detectors stand 0.1 to 20 m away."""

FIELDS_OF_SCANS = (0.3, 1000.0)
"""What scans cover, micrometres."""

MIN_WORDS_WITHOUT_ENERGY = 2
MAX_MEMBERS = 2000
MAX_TEXT = 200
MAX_NUMBERS = 100_000


@dataclass(frozen=True)
class BeamHints:
    """What a file hints at.

    Attributes:
        beam: what can be told; ``None``: either.
        values: proposals for keys of `phaseloom.data.formats.setup.Setup`, as a side-car writes them.
        places: where in the file each of these stands.
        words: that speak for X-rays.
    """

    beam: SuspectedBeam | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def find_beam_hints(file: h5py.File, patterns: int, /) -> BeamHints:
    """Names, energies, distances and motors of a file of no known kind.

    A file is of X-rays where a name of their beamlines stands in it and its energy is between 0.2 and 40 keV,
    or two of them and no energy; and nothing speaks for electrons.

    Args:
        file: open.
        patterns: how many there are.

    Example:
        >>> with h5py.File("own.h5", "w") as file:
        ...     file["eiger/frames"] = np.ones((3, 4, 4))
        ...     file["mono/energy_keV"] = 9.1
        ...     found = find_beam_hints(file, 3)
        >>> found.beam, found.values["energy"], found.values["detector_pixel"]
        ('photon', '9.1 keV', '75 um')
    """
    members: dict[str, Any] = {}
    file.visititems(lambda name, item: members.update({name: item}) if len(members) < MAX_MEMBERS else None)
    words = set[str]()
    for name, item in [("", file), *members.items()]:
        words |= _split_words(name) | _words_of_attributes(item)
    data = {name: item for name, item in members.items() if isinstance(item, h5py.Dataset)}
    values, places = _find_numbers(data)
    detector = next((word for word in sorted(DETECTOR_PIXELS) if word in words), None)
    if detector and "detector_pixel" not in values:
        values["detector_pixel"] = f"{DETECTOR_PIXELS[detector]} um"
        places["detector_pixel"] = f"the data sheet of {detector}"
    if motors := _find_motors(data, patterns):
        values["positions"] = f"[{', '.join(motors)}]"
        places["positions"] = "arrays of the file, (rows, columns); those of the sample are minus the beam's"
        if not any("units" in data[one].attrs for one in motors):
            values["positions_unit"], places["positions_unit"] = _guess_unit(*(data[one] for one in motors))
    xray = tuple(sorted(words & WORDS_OF_XRAYS))
    energy = _read_energy(values.get("energy"))
    beam = _tell_beam(xray, bool(words & WORDS_OF_ELECTRONS), energy)
    return BeamHints(beam, values, places, xray)


def _tell_beam(xray: tuple[str, ...], has_electrons: bool, energy: float | None) -> SuspectedBeam | None:
    low, high = PHOTON_ENERGIES
    if energy is not None and energy > high:
        return None if xray else "electron"
    if has_electrons:
        return None if xray or energy is not None else "electron"
    if energy is not None and energy >= low:
        return "photon" if xray else None
    return "photon" if len(xray) >= MIN_WORDS_WITHOUT_ENERGY else None


def _split_words(name: str) -> set[str]:
    """Words of a name; ``zone_plate`` is ``zoneplate`` too, ``bad2`` is ``bad``."""
    parts = [one for one in re.split(r"[^a-z]+", name.lower()) if one]
    return set(parts) | {a + b for a, b in pairwise(parts)}


def _words_of_attributes(item: Any) -> set[str]:
    found = set[str]()
    for name, value in list(item.attrs.items())[:50]:
        found |= _split_words(name)
        if isinstance(value, (str, bytes)) and len(value) < MAX_TEXT:
            found |= _split_words(decode_text(value))
    return found


def _find_numbers(data: Mapping[str, h5py.Dataset]) -> tuple[dict[str, str], dict[str, str]]:
    """Energy, distance and detector pixel that stand in a file with a unit, and where."""
    values = dict[str, str]()
    places = dict[str, str]()
    distances = dict[str, float]()  # without a unit
    for name, item in data.items():
        last = name.rsplit("/", 1)[-1]
        number = _read_number(item)
        if number is None:
            continue
        unit = normalise(decode_text(item.attrs["units"])) if "units" in item.attrs else _unit_in_name(last)
        key, text = _interpret(last, number, unit)
        if key and key not in values:
            values[key] = text
            places[key] = f"{name} of the file"
        elif not unit and _is_distance(last) and number > 0:
            distances[name] = number
    if distances and "distance" not in values:
        name, number = next(iter(distances.items()))
        values["distance"] = f"{number:.7g} {'m' if number < MIN_DISTANCE_IN_MILLIMETRES else 'mm'}"
        places["distance"] = f"{name} of the file, which states no unit: a guess"
    return values, places


def _is_distance(name: str) -> bool:
    """Whether a number is that of the detector by its name."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    return "distance" in plain or plain.startswith(("detdist", "distdet"))


def _guess_unit(rows: h5py.Dataset, columns: h5py.Dataset) -> tuple[str, str]:
    """A unit in which positions span what scans do, and that it is a guess."""
    spans = [float(np.ptp(np.asarray(one[()], float))) for one in (rows, columns)]
    units = {"um": 1.0, "mm": 1e3, "m": 1e6, "nm": 1e-3}
    low, high = FIELDS_OF_SCANS
    unit = next((one for one, scale in units.items() if low <= max(spans) * scale <= high), "um")
    return unit, f"the file states none: a guess by numbers that span {spans[0]:.3g} and {spans[1]:.3g}"


def _interpret(name: str, number: float, unit: str) -> tuple[str, str]:
    """Key and value of a number by its name; empty where it is none of them, or its unit is not known."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    if any(plain.startswith(one) or plain.endswith(one) for one in ENERGY_NAMES if len(one) > 3):
        unit = unit or ("keV" if number < 200 else "eV")  # 9.1 is keV, 9100 is eV
        scale = QUANTITIES["energy"].units.get(unit.lower())
        return ("energy", f"{number * scale / 1e3:.7g} keV") if scale else ("", "")
    if plain.startswith(("wavelength", "lambda")):
        scale = QUANTITIES["wavelength"].units.get(unit)
        return (
            ("energy", f"{PLANCK_TIMES_C / (number * scale) / 1e3:.7g} keV")
            if scale and number > 0
            else ("", "")
        )
    scale = QUANTITIES["distance"].units.get(unit)
    if scale is None:
        return "", ""
    shown = f"{number:.7g} {'A' if unit == 'a' else unit}"
    if _is_distance(name) and QUANTITIES["distance"].holds(number * scale):
        return "distance", shown
    if "pixel" in plain and QUANTITIES["detector_pixel"].holds(number * scale):
        return "detector_pixel", shown
    return "", ""


def _read_number(item: h5py.Dataset) -> float | None:
    """A number, or the mean of equal ones."""
    if item.dtype.kind not in "iuf" or not 0 < (item.size or 0) <= MAX_NUMBERS or item.ndim > 1:
        return None
    found = np.asarray(item[()], float).ravel()
    mean = float(found.mean())
    if not np.isfinite(mean) or np.ptp(found) > 1e-3 * abs(mean):
        return None
    return mean


def _unit_in_name(name: str) -> str:
    """The unit at the end of a name, such as ``distance_mm``."""
    last = re.split(r"[_\s(\[]+", name)[-1].strip("])")
    return normalise(last) if normalise(last) in {"kev", "ev", "m", "cm", "mm", "um", "nm", "a"} else ""


def _read_energy(text: str | None) -> float | None:
    return None if text is None else 1e3 * float(text.split()[0])


def _find_motors(data: Mapping[str, h5py.Dataset], patterns: int) -> tuple[str, str] | None:
    """Two arrays with a number for each pattern, named as rows and columns are."""
    lines = {
        name: name.rsplit("/", 1)[-1].lower()
        for name, item in data.items()
        if item.dtype.kind in "iuf"
        and item.size == patterns
        and item.ndim in (1, 2)
        and re.fullmatch(r"[\w/.\-]+", name)  # as a side-car can have it without quotes
    }
    known: dict[str, str] = dict(zip(ROW_NAMES, COLUMN_NAMES, strict=False))
    for name, last in lines.items():
        others = {known.get(last, ""), last[:-1] + "x" if last.endswith("y") else "", last.replace("y", "x")}
        for other, its in lines.items():
            if (
                other != name
                and its in others - {""}
                and other.rsplit("/", 1)[:-1] == name.rsplit("/", 1)[:-1]
            ):
                return name, other
    return _find_upright_motors(lines)


def _find_upright_motors(lines: Mapping[str, str]) -> tuple[str, str] | None:
    """The same of a stage that stands upright: ``samz`` and ``samx``, ``piezo_z_um`` and ``piezo_x_um``."""
    for name, last in lines.items():
        for other, its in lines.items():
            same = other.rsplit("/", 1)[:-1] == name.rsplit("/", 1)[:-1]
            if same and its != last and its == re.sub(r"z(?=$|[\W_\d])", "x", last):
                return name, other
    return None
