"""What a parameter file says of the beam."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from phaseloom.spec import Call

__all__ = ["Optics", "optics_of"]

NAMES = {"defocus": "defocus", "astigmatism": "C12", "astigmatism_angle": "phi12", "spherical": "C30"}
"""Knobs of a probe, and the aberrations that they are."""


@dataclass(frozen=True, kw_only=True)
class Optics:
    """What is known of the beam of a scan.

    Attributes:
        semiangle: of convergence, radian; ``None``: measured on the bright disk.
        aberrations: any names of `phaseloom.physics.optics.coefficients`, angstrom and radian; without a
            defocus, that of the model is assumed, and said.
    """

    semiangle: float | None = None
    aberrations: Mapping[str, float] = field(default_factory=dict)


def optics_of(probe: Call, /) -> Optics:
    """What the call of a probe says of the beam.

    Example:
        >>> from phaseloom.spec import call
        >>> said = {"focused": {"semiangle": "20 mrad", "defocus": "9 nm"}}
        >>> optics_of(call("phaseloom.ptycho.probes", said, "probe"))
        Optics(semiangle=0.02, aberrations={'defocus': 90.0})
    """
    given = probe.values
    named = {name: float(given[knob]) for knob, name in NAMES.items() if knob in given}
    if probe.name not in ("focused", "aberrated"):
        return Optics(aberrations={name: named[name] for name in ("defocus",) if name in named})
    return Optics(semiangle=given.get("semiangle"), aberrations={**named, **(given.get("aberrations") or {})})
