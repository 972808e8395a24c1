"""What tests of PtyRAD's parameter files begin with."""

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
