"""What a parameter file of PtyRAD 1.0 may hold: names, kinds, defaults and choices, as tables.

A `Knob` is one value, a `Group` a nested set of them. Units are PtyRAD's: kV, mrad, angstrom (metres
for X-rays), degrees, pixels.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

__all__ = [
    "INIT",
    "REQUIRED",
    "STORED",
    "TILTS",
    "Count",
    "Group",
    "Knob",
    "Least",
    "Of",
    "Positive",
    "Share",
]
__all__ += ["Two", "choice"]

REQUIRED: Any = object()
"""The default of what a file must say."""


def choice(words: str, /) -> Any:
    """One of several words, as a kind that pydantic reads.

    Example:
        >>> choice("crop resample")
        typing.Literal['crop', 'resample']
    """
    return operator.getitem(Literal, tuple(words.split()))  # type: ignore[call-overload]


@dataclass(frozen=True)
class Knob:
    """One value: its kind, as pydantic reads it, and its default."""

    kind: Any
    default: Any = None


@dataclass(frozen=True)
class Group:
    """Values with names.

    Attributes:
        knobs: its values, and groups of them.
        filled: all defaults when left out; else it is off when left out.
        loose: names that nobody knows are passed over, as PtyRAD does.
        whole: one that is written out loses its defaults: what it leaves out is off.
    """

    knobs: Mapping[str, "Knob | Group"]
    filled: bool = True
    loose: bool = False
    whole: bool = False


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Least = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Bit = Annotated[int, Field(ge=0, le=1)]
Flips: Any = Annotated[list[Bit], Field(min_length=3, max_length=3)]
Two: Any = Annotated[list[float], Field(min_length=2, max_length=2)]
Range: Any = Annotated[list[int], Field(min_length=2, max_length=2)]
Three: Any = Annotated[list[int], Field(min_length=3, max_length=3)]
Ranges: Any = Annotated[list[Range | None], Field(min_length=4, max_length=4)]
Four: Any = Annotated[list[float], Field(min_length=4, max_length=4)]
Of = choice("amplitude phase both")
Later = choice("on_the_fly precompute")

_FILLING = choice("constant edge linear_ramp exp power")
_NEGATIVE = choice("subtract_min subtract_value clip_neg clip_value")
_LEVEL = choice("max_at_one mean_at_one sum_to_one divide_const")
_DEPTH = choice("scale_Nlayer scale_slice_thickness target_Nlayer target_slice_thickness")
_END = choice("vacuum mean edge")
_PROGRAM = choice("simu PtyRAD PtyShv py4DSTEM custom")
_CALIBRATION = choice("dx dk kMax da angleMax n_alpha RBF fitRBF")

_MEASURED = "file tif tiff mat h5 hdf5 zarr npy raw custom"

INIT = {
    "random_seed": Knob(int | None),
    "probe_illum_type": Knob(choice("electron xray"), "electron"),
    "probe_kv": Knob(Positive | None),
    "probe_conv_angle": Knob(Positive | None),
    "probe_aberrations": Knob(dict[str, Any] | None, {}),
    "beam_kev": Knob(Positive | None),
    "probe_dRn": Knob(Positive | None),
    "probe_Rn": Knob(Positive | None),
    "probe_D_H": Knob(Least | None),
    "probe_D_FZP": Knob(Positive | None),
    "probe_Ls": Knob(float | None),
    "meas_Npix": Knob(Count, REQUIRED),
    "pos_N_scans": Knob(Count | None),
    "pos_N_scan_slow": Knob(Count, REQUIRED),
    "pos_N_scan_fast": Knob(Count, REQUIRED),
    "pos_scan_step_size": Knob(Positive, REQUIRED),
    "meas_calibration": Group({"mode": Knob(_CALIBRATION, "fitRBF"), "value": Knob(Positive | None)}),
    "probe_pmode_max": Knob(Count, 4),
    "probe_pmode_init_pows": Knob(list[Least], [0.02]),
    "obj_omode_max": Knob(Count, 1),
    "obj_omode_init_occu": Group(
        {"occu_type": Knob(choice("uniform custom"), "uniform"), "init_occu": Knob(list[float] | None)}
    ),
    "obj_Nlayer": Knob(Count, REQUIRED),
    "obj_slice_thickness": Knob(Positive, REQUIRED),
    "simu_Npix": Knob(Count | None),
    "simu_match_mode": Knob(choice("crop resample") | None),
    "meas_permute": Knob(list[int] | None),
    "meas_reshape": Knob(Three | None),
    "meas_flipT": Knob(Flips | None),
    "meas_crop": Knob(Ranges | None),
    "meas_pad": Group(
        {
            "mode": Knob(Later | None, "on_the_fly"),
            "padding_type": Knob(_FILLING, "power"),
            "target_Npix": Knob(Count, 256),
            "value": Knob(float | None, 0.0),
            "threshold": Knob(float | None, 70.0),
        },
        filled=False,
    ),
    "meas_resample": Group(
        {"mode": Knob(Later | None, "on_the_fly"), "scale_factors": Knob(Two, [2.0, 2.0])}, filled=False
    ),
    "meas_add_source_size": Knob(Positive | None),
    "meas_add_detector_blur": Knob(Positive | None),
    "meas_remove_neg_values": Group(
        {
            "mode": Knob(_NEGATIVE, "clip_neg"),
            "value": Knob(float | None),
            "force": Knob(bool, False),
        }
    ),
    "meas_normalization": Group({"mode": Knob(_LEVEL, "max_at_one"), "value": Knob(float | None)}),
    "meas_add_poisson_noise": Group(
        {
            "unit": Knob(choice("total_e_per_pattern e_per_Ang2"), REQUIRED),
            "value": Knob(Positive, REQUIRED),
        },
        filled=False,
    ),
    "meas_export": Group(
        {
            "file_dir": Knob(str | None),
            "file_name": Knob(str, "ptyrad_init_meas"),
            "file_format": Knob(choice("hdf5 tif npy mat"), "hdf5"),
            "output_shape": Knob(list[int] | None),
            "append_shape": Knob(bool, True),
        },
        filled=False,
    ),
    "probe_permute": Knob(list[int] | None),
    "probe_z_shift": Knob(float | None),
    "probe_normalization": Group(
        {
            "mode": Knob(choice("mean_total_ints max_total_ints target_intensity"), "mean_total_ints"),
            "value": Knob(Positive | None),
        }
    ),
    "pos_scan_flipT": Knob(Flips | None),
    "pos_scan_affine": Knob(Four | None),
    "pos_scan_rand_std": Knob(Least | None, 0.15),
    "obj_z_crop": Knob(Range | None),
    "obj_z_pad": Group(
        {
            "pad_layers": Knob(
                Annotated[
                    list[Annotated[int, Field(ge=0)] | None],
                    Field(min_length=2, max_length=2),
                ],
                [0, 0],
            ),
            "pad_types": Knob(Annotated[list[_END], Field(min_length=2, max_length=2)], ["vacuum", "vacuum"]),
        },
        filled=False,
    ),
    "obj_z_resample": Group(
        {"mode": Knob(_DEPTH, REQUIRED), "value": Knob(Positive, REQUIRED)}, filled=False
    ),
    "meas_source": Knob(choice(_MEASURED), "file"),
    "meas_params": Knob(Any, REQUIRED),
    "probe_source": Knob(_PROGRAM, "simu"),
    "probe_params": Knob(Any),
    "pos_source": Knob(choice("simu PtyRAD PtyShv py4DSTEM foldslice_hdf5 custom"), "simu"),
    "pos_params": Knob(Any),
    "obj_source": Knob(_PROGRAM, "simu"),
    "obj_params": Knob(Any),
    "tilt_source": Knob(choice("simu PtyRAD file custom"), "simu"),
    "tilt_params": Knob(Any, {"tilt_type": "all", "init_tilts": [[0.0, 0.0]]}),
}

STORED = Group(
    {
        "path": Knob(str, REQUIRED),
        "key": Knob(str | None),
        "shape": Knob(list[int] | None),
        "offset": Knob(int | None),
        "gap": Knob(int | None),
        "selection": Knob(Any),
        "zarr_kwargs": Knob(dict[str, Any] | None),
    },
    loose=True,
)
TILTS = Group(
    {
        "tilt_type": Knob(choice("all each") | None, "all"),
        "init_tilts": Knob(list[Two] | None, [[0.0, 0.0]]),
    }
)
