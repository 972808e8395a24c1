"""Units as files spell them, and which values of a quantity are plausible."""

import math
import re
from dataclasses import dataclass

__all__ = ["QUANTITIES", "Quantity", "normalise", "scale_of"]

LENGTHS = {"m": 1e10, "cm": 1e8, "mm": 1e7, "um": 1e4, "nm": 10.0, "a": 1.0, "pm": 1e-2, "fm": 1e-5}
ENERGIES = {"ev": 1.0, "kev": 1e3, "mev": 1e6, "gev": 1e9, "v": 1.0, "kv": 1e3, "mv": 1e6}
ENERGIES |= {"j": 1 / 1.602176634e-19}
ANGLES = {"rad": 1.0, "mrad": 1e-3, "urad": 1e-6, "deg": math.pi / 180}
TIMES = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
INVERSE_LENGTHS = {f"1/{name}": 1 / scale for name, scale in LENGTHS.items()}

SPELLINGS = {"angstrom": "a", "angstroms": "a", "ang": "a", "å": "a", "micron": "um", "microns": "um"}
SPELLINGS |= {"aa": "a", "ka": "a"}  # LaTeX's, and pyxem's k_A^-1
SPELLINGS |= {"millimeter": "mm", "millimetre": "mm", "nanometer": "nm", "nanometre": "nm"}
SPELLINGS |= {"micrometer": "um", "micrometre": "um", "picometer": "pm", "picometre": "pm"}
SPELLINGS |= {"meter": "m", "metre": "m", "meters": "m", "metres": "m", "joule": "j", "joules": "j"}
SPELLINGS |= {"radian": "rad", "radians": "rad", "mrads": "mrad", "milliradian": "mrad"}
SPELLINGS |= {"milliradians": "mrad", "degree": "deg", "degrees": "deg", "°": "deg"}
SPELLINGS |= {"sec": "s", "second": "s", "seconds": "s", "volt": "v", "volts": "v"}


@dataclass(frozen=True)
class Quantity:
    """A physical quantity in files: its units, what is plausible, and units that are often left out.

    Attributes:
        units: inner units (angstrom, radian, electronvolt, second, 1/angstrom) per unit.
        least: smallest plausible value, inner units.
        most: largest plausible value, inner units.
        usual: range of common experiments, in which a value without a unit must be.
        left_out: factors that may bring it there, the likeliest first.
    """

    units: dict[str, float]
    least: float
    most: float
    usual: tuple[float, float] = (-math.inf, math.inf)
    left_out: tuple[float, ...] = ()

    def holds(self, value: float) -> bool:
        """Whether a value is plausible.

        Example:
            >>> QUANTITIES["energy"].holds(80e3), QUANTITIES["energy"].holds(-1.0)
            (True, False)
        """
        return math.isfinite(value) and self.least <= value <= self.most

    def is_usual(self, value: float) -> bool:
        """Whether a value is one of common experiments."""
        return self.usual[0] <= value <= self.usual[1]


QUANTITIES = {
    # 8.8 without a unit is 8.8 keV, and so are 200 for electrons; below 1e-12 it is in joule
    "energy": Quantity(ENERGIES, 1.0, 1e7, (50.0, 1e6), (1e3, ENERGIES["j"])),
    "electron_energy": Quantity(ENERGIES, 1e3, 1e7, (5e3, 3e6), (1e3, ENERGIES["j"])),
    "wavelength": Quantity(LENGTHS, 1e-3, 2e5),
    "distance": Quantity(LENGTHS, 1e6, 1e13),  # 0.1 mm to 1 km
    "detector_pixel": Quantity(LENGTHS, 1e3, 1e8),  # 0.1 um to 1 cm
    "pixel": Quantity(LENGTHS, 1e-3, 1e7),
    "step": Quantity(LENGTHS, 1e-3, 1e8),
    "focus": Quantity(LENGTHS, 1e4, 1e13),
    "sampling": Quantity(ANGLES | INVERSE_LENGTHS, 0.0, math.inf),  # an angle, or cycles per length
    "angle": Quantity(ANGLES, 1e-9, 0.3),
    "rotation": Quantity(ANGLES, -1e3, 1e3),
    "positions": Quantity(LENGTHS, -1e10, 1e10),
    "time": Quantity(TIMES, 0.0, 1e6),
    "count": Quantity({"": 1.0}, 1.0, 1e6),
}
"""Each quantity that a kind of file can state, by its key in `phaseloom.data.formats.kinds.kind.Kind`."""


def normalise(unit: str, /) -> str:
    r"""One spelling for a unit.

    Example:
        >>> [normalise(unit) for unit in ("[n_m]", "µm", "Å⁻¹", "A^-1", "1 / nm", "keV", "mrads", "Meters")]
        ['nm', 'um', '1/a', '1/a', '1/nm', 'kev', 'mrad', 'm']
        >>> [normalise(unit) for unit in ("$A^{-1}$", r"$\AA^{-1}$", "nm$^{-1}$", "k_A^-1")]  # of pyxem
        ['1/a', '1/a', '1/nm', '1/a']
    """
    text = unit.strip().strip("[]()").replace("_", "").replace(" ", "").lower()
    text = text.replace("µ", "u").replace("μ", "u").replace("⁻¹", "^-1")
    text = re.sub(r"[${}\\]", "", text)  # of LaTeX
    inverse = re.fullmatch(r"1/(.+)|(.+?)(?:\^|\*\*)?-1", text)
    name = (inverse[1] or inverse[2]) if inverse else text
    name = SPELLINGS.get(name, name)
    return f"1/{name}" if inverse else name


def scale_of(unit: str, quantity: Quantity, /) -> float | None:
    """Inner units per unit, of a quantity; nothing for a unit that it does not have.

    Example:
        >>> scale_of("µm", QUANTITIES["step"]), scale_of("furlong", QUANTITIES["step"])
        (10000.0, None)
    """
    return quantity.units.get(normalise(unit))
