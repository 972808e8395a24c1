"""Lengths, angles, energies and times: a number with its unit in files, a plain float in code.

Inside: angstrom, radian, electronvolt, second. Outside: ``"21.4 mrad"``, ``"3.65 mm"``, ``"8.8 keV"``.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

from phaseloom.errors import BadInput

__all__ = [
    "ANGLE",
    "ELECTRON_REST_ENERGY",
    "ENERGY",
    "HC_SI",
    "LENGTH",
    "PLANCK_TIMES_C",
    "Angle",
    "Dimension",
    "Energy",
]
__all__ += ["TIME", "Length", "Time", "electron_wavelength", "format_bytes", "photon_wavelength"]

PLANCK_TIMES_C = 12398.419843320025
"""Planck's constant times the speed of light, eV angstrom (CODATA 2018, exact)."""

HC_SI = 1.986445857148929e-25
"""The same, J m."""

ELECTRON_REST_ENERGY = 510998.95
"""eV (CODATA 2018)."""

_NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?inf)\s*(\S*)\s*$")


@dataclass(frozen=True)
class Dimension:
    """A physical dimension: its name and how much one of each unit is in the inner unit."""

    name: str
    scale: tuple[tuple[str, float], ...]

    def parse(self, text: object, /, place: str = "value") -> float:
        """The inner value of ``"21.4 mrad"``; a bare number is refused unless it is zero or infinite.

        Raises:
            BadInput: not a number with one of this dimension's units.

        Example:
            >>> ANGLE.parse("21.4 mrad")
            0.0214
        """
        article = "an" if self.name[0] in "aeiou" else "a"
        fix = f"is not {article} {self.name}: write a number and one of {', '.join(dict(self.scale))}"
        found = _NUMBER.match(text if isinstance(text, str) else repr(text))
        if isinstance(text, bool) or not found:
            raise BadInput(place, text, fix)
        number = float(found[1])
        unit = found[2]
        if not unit and (number == 0 or math.isinf(number)):
            return number
        if unit not in dict(self.scale):
            raise BadInput(place, text, fix)
        scale = dict(self.scale)[unit]
        return number if scale == 1 else float(f"{number * scale:.15g}")

    def show(self, value: float, /, *, digits: int = 6) -> str:
        """A value in the unit that leaves one to three digits before the point.

        Args:
            value: in the inner unit.
            digits: significant ones that are kept.

        Example:
            >>> LENGTH.show(3.65e7), ANGLE.show(0.00051269474, digits=8)
            ('3.65 mm', '512.69474 µrad')
        """
        if value == 0 or not math.isfinite(value):
            return f"{value:g}"
        unit, scale = self._choose_unit(value)
        return f"{value / scale:.{digits}g} {unit}"

    def show_with_error(self, value: float, error: float, /) -> str:
        """A value and its error in one unit, to two digits of the error.

        Example:
            >>> LENGTH.show_with_error(98.4294, 2.18806), LENGTH.show_with_error(-0.1956, 2.383)
            ('9.84 +- 0.22 nm', '-0.2 +- 2.4 A')
        """
        if not (error > 0 and math.isfinite(error) and math.isfinite(value)):
            return self.show(value)
        unit, scale = self._choose_unit(max(abs(value), error))
        digits = max(0, 1 - math.floor(math.log10(error / scale)))
        return f"{value / scale:.{digits}f} +- {error / scale:.{digits}f} {unit}"

    def _choose_unit(self, value: float) -> tuple[str, float]:
        """The largest unit that the value is not below."""
        units = [unit for unit in self.scale if unit[0] not in ("angstrom", "Å", "um", "deg")]
        small_enough = [unit for unit in units if abs(value) >= unit[1] * 0.9999]
        return max(small_enough or [min(units, key=lambda u: u[1])], key=lambda u: u[1])

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Read text with units wherever pydantic meets a field of this dimension."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.parse, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        """Say in a form's schema that text with a unit is expected."""
        units = "|".join(unit for unit, _ in self.scale)
        return {"type": "string", "pattern": rf"^\s*[-+0-9.eE]+\s*({units})\s*$", "dimension": self.name}


LENGTH = Dimension(
    "length",
    tuple(
        {
            "A": 1.0,
            "Å": 1.0,
            "angstrom": 1.0,
            "pm": 1e-2,
            "nm": 1e1,
            "um": 1e4,
            "µm": 1e4,
            "mm": 1e7,
            "m": 1e10,
        }.items()
    ),
)
ANGLE = Dimension("angle", (("rad", 1.0), ("mrad", 1e-3), ("µrad", 1e-6), ("deg", math.pi / 180)))
TIME = Dimension("time", (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9)))
ENERGY = Dimension("energy", (("eV", 1.0), ("keV", 1e3), ("MeV", 1e6)))


class Coefficients:
    """A table of aberrations by name: lengths, or angles where a name says so (``phi12``, ``coma_angle``)."""

    def of(self, name: str, /) -> Dimension:
        """The dimension of a coefficient.

        Example:
            >>> Coefficients().of("phi12").name, Coefficients().of("C12").name
            ('angle', 'length')
        """
        return ANGLE if name.startswith("phi") or name.endswith("angle") else LENGTH

    def parse(self, table: object, /) -> dict[str, float]:
        """The inner values of ``{C12: 2 nm, phi12: 30 deg}``."""
        if not isinstance(table, dict):
            raise BadInput("aberrations", table, "must hold 'name: value' lines, such as C12: 2 nm")
        return {str(name): self.of(str(name)).parse(value, str(name)) for name, value in table.items()}

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Read a table of texts with units."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.parse, handler(source))


Length = Annotated[float, LENGTH]
Angle = Annotated[float, ANGLE]
Energy = Annotated[float, ENERGY]
Time = Annotated[float, TIME]
Aberrations = Annotated[dict[str, float], Coefficients()]


def electron_wavelength(energy: float, /) -> float:
    """Relativistic wavelength in angstrom of electrons of a kinetic energy in eV.

    Example:
        >>> round(electron_wavelength(300e3), 6)
        0.019687
    """
    return PLANCK_TIMES_C / math.sqrt(energy * (2 * ELECTRON_REST_ENERGY + energy))


def photon_wavelength(energy: float, /) -> float:
    """Wavelength in angstrom of photons of an energy in eV.

    Example:
        >>> round(photon_wavelength(8.8e3), 4)
        1.4089
    """
    return PLANCK_TIMES_C / energy


def format_bytes(size: int, /) -> str:
    """A number of bytes with its unit.

    Example:
        >>> format_bytes(12_492_298), format_bytes(800)
        ('12.5 MB', '800 B')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} B"
