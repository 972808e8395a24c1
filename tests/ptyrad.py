"""What tests of PtyRAD's parameter files begin with."""

from collections.abc import Mapping
from typing import Any

LEAST: dict[str, Any] = {
    "probe_kv": 80,
    "probe_conv_angle": 24.9,
    "meas_Npix": 128,
    "pos_N_scan_slow": 8,
    "pos_N_scan_fast": 9,
    "pos_scan_step_size": 0.43,
    "obj_Nlayer": 6,
    "obj_slice_thickness": 2,
    "meas_params": {"path": "scan.raw"},
}
"""The settings without which no file is one, of ``init_params``."""


def make_project(
    grid: tuple[int, int], size: int, pixel: float, step: float, recon: Mapping[str, Any], /, **sections: Any
) -> dict[str, Any]:
    """A project of two slices and two modes on ``scan.npy``; sections add to its settings.

    Args:
        grid: positions (slow, fast).
        size: of the patterns, pixels.
        pixel: of the object, angstrom.
        step: of the scan, angstrom.
        recon: settings of ``recon_params``.
        **sections: ``init_params``, ``recon_params`` and others.
    """
    init = {
        "probe_kv": 80,
        "probe_conv_angle": 25,
        "probe_aberrations": {"C10": -20},
        "meas_Npix": size,
        "pos_N_scan_slow": grid[0],
        "pos_N_scan_fast": grid[1],
        "pos_scan_step_size": step,
        "meas_calibration": {"mode": "dx", "value": pixel},
        "probe_pmode_max": 2,
        "obj_Nlayer": 2,
        "obj_slice_thickness": 8,
        "meas_params": {"path": "scan.npy"},
    }
    init |= sections.pop("init_params", {})
    return {"init_params": init, "recon_params": {**recon, **sections.pop("recon_params", {})}, **sections}
