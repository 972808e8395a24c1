"""How a sample lies, in CDTools' words."""

from typing import Any

from phaseloom.compat.cdtools.data import table_of
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

__all__ = ["lying"]

MODES = {"t": "transmission", "transmission": "transmission", "r": "reflection", "reflection": "reflection"}


def lying(scan: Scan4D, scattering_mode: str | None = None, surface_normal: Any = None, /) -> Scan4D:
    """The scan of a sample that lies as it is told; a normal comes before a mode, and that before the file.

    Args:
        scan: the data.
        scattering_mode: ``t``: across the beam; ``r``: as a mirror that reflects it into the detector;
            ``None``: as the data say.
        surface_normal: three numbers (x, y, z), of either sign.

    Raises:
        BadInput: another mode, or what is no normal.

    Example:
        >>> import numpy as np
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5))
        >>> scan = Scan4D(counts=np.ones((1, 4, 4)), positions=np.zeros((1, 2)), geometry=geometry)
        >>> lying(scan, "t", [0.0, -0.6, -0.8]).geometry.normal
        (0.0, 0.6, 0.8)
    """
    if surface_normal is not None:
        vector = table_of("from_dataset: surface_normal", surface_normal).astype(float)
        if vector.shape != (3,):
            raise BadInput("from_dataset: surface_normal", surface_normal, "must be three numbers: x, y, z")
        return prepare.tilt_sample(scan, normal=tuple(vector.tolist()))
    if scattering_mode is None:
        return scan
    mode = MODES.get(str(scattering_mode).strip().lower())
    if mode is None:
        fix = "must be 't' (transmission), 'r' (reflection) or None"
        raise BadInput("from_dataset: scattering_mode", scattering_mode, fix)
    return prepare.tilt_sample(scan, scattering=mode)  # type: ignore[arg-type]
