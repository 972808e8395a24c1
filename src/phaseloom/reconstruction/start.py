"""How the first guess of a run is settled: ``start: NAME`` in a parameter file."""

from phaseloom.calibration.sweep import Start, sweep
from phaseloom.data.scan import Scan4D
from phaseloom.spec import Call

__all__ = ["Start", "none", "sweep"]


def none(scan: Scan4D, probe: Call, seed: int = 0, /) -> Start | None:
    """Start exactly as the parameter file says."""
    return None
