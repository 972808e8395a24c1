"""What the section ``init_params`` of a PtyRAD parameter file may hold: experiment, data, first guesses.

Units are PtyRAD's: kV, mrad, angstrom (metres for X-rays), degrees, pixels.
"""
# ruff: noqa: RUF012 - pydantic copies mutable defaults

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from phaseloom.compat.ptyrad.settings import (
    Count,
    LooseSettings,
    NotNegative,
    Pair,
    Positive,
    Settings,
    check,
)
from phaseloom.errors import BadInput

__all__ = ["InitParams"]

Flips = Annotated[list[Annotated[int, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
IntPair = Annotated[list[int], Field(min_length=2, max_length=2)]
IntTriple = Annotated[list[int], Field(min_length=3, max_length=3)]
Quadruple = Annotated[list[float], Field(min_length=4, max_length=4)]
Crop = Annotated[list[IntPair | None], Field(min_length=4, max_length=4)]
Layers = Annotated[list[Annotated[int, Field(ge=0)] | None], Field(min_length=2, max_length=2)]
LayerKind = Literal["vacuum", "mean", "edge"]
Computed = Literal["on_the_fly", "precompute"]
Source = Literal["simu", "PtyRAD", "PtyShv", "py4DSTEM", "custom"]


MAX_MODES = 10_000
"""Of a probe."""


class _Stored(LooseSettings):
    path: str
    key: str | None = None
    shape: list[int] | None = None
    offset: int | None = None
    gap: int | None = None
    selection: Any = None
    zarr_kwargs: dict[str, Any] | None = None


class _Tilts(Settings):
    tilt_type: Literal["all", "each"] | None = "all"
    init_tilts: list[Pair] | None = [[0.0, 0.0]]


class _Calibration(Settings):
    mode: Literal["dx", "dk", "kMax", "da", "angleMax", "n_alpha", "RBF", "fitRBF"] = "fitRBF"
    value: Positive | None = None


class _Occupancy(Settings):
    occu_type: Literal["uniform", "custom"] = "uniform"
    init_occu: list[float] | None = None


class _PatternPadding(Settings):
    mode: Computed | None = "on_the_fly"
    padding_type: Literal["constant", "edge", "linear_ramp", "exp", "power"] = "power"
    target_Npix: Count = 256
    value: float | None = 0.0
    threshold: float | None = 70.0


class _PatternResampling(Settings):
    mode: Computed | None = "on_the_fly"
    scale_factors: Pair = [2.0, 2.0]


class _NegativeValues(Settings):
    mode: Literal["subtract_min", "subtract_value", "clip_neg", "clip_value"] = "clip_neg"
    value: float | None = None
    force: bool = False


class _PatternScale(Settings):
    mode: Literal["max_at_one", "mean_at_one", "sum_to_one", "divide_const"] = "max_at_one"
    value: float | None = None


class _PoissonNoise(Settings):
    unit: Literal["total_e_per_pattern", "e_per_Ang2"]
    value: Positive


class _PatternExport(Settings):
    file_dir: str | None = None
    file_name: str = "ptyrad_init_meas"
    file_format: Literal["hdf5", "tif", "npy", "mat"] = "hdf5"
    output_shape: list[int] | None = None
    append_shape: bool = True


class _ProbePower(Settings):
    mode: Literal["mean_total_ints", "max_total_ints", "target_intensity"] = "mean_total_ints"
    value: Positive | None = None


class _LayerPadding(Settings):
    pad_layers: Layers = [0, 0]
    pad_types: Annotated[list[LayerKind], Field(min_length=2, max_length=2)] = ["vacuum", "vacuum"]


class _LayerResampling(Settings):
    mode: Literal["scale_Nlayer", "scale_slice_thickness", "target_Nlayer", "target_slice_thickness"]
    value: Positive


def _read_switch(given: Any) -> Any:
    """``true`` for all defaults, ``false`` for off."""
    if not isinstance(given, bool):
        return given
    return {} if given else None


MODES_WITH_VALUE: Mapping[str, tuple[str, ...]] = {
    "meas_calibration": ("dx", "dk", "kMax", "da", "angleMax", "n_alpha", "RBF"),
    "meas_remove_neg_values": ("subtract_value", "clip_value"),
    "meas_normalization": ("divide_const",),
    "probe_normalization": ("target_intensity",),
}
"""Modes that need ``value`` beside ``mode``."""


class InitParams(Settings):
    """Experiment, data and first guesses."""

    random_seed: int | None = None
    probe_illum_type: Literal["electron", "xray"] = "electron"
    probe_kv: Positive | None = None
    probe_conv_angle: Positive | None = None
    probe_aberrations: dict[str, Any] | None = {}
    beam_kev: Positive | None = None
    probe_dRn: Positive | None = None
    probe_Rn: Positive | None = None
    probe_D_H: NotNegative | None = None
    probe_D_FZP: Positive | None = None
    probe_Ls: float | None = None
    meas_Npix: Count
    pos_N_scans: Count | None = None
    pos_N_scan_slow: Count
    pos_N_scan_fast: Count
    pos_scan_step_size: Positive
    meas_calibration: _Calibration = _Calibration()
    probe_pmode_max: Count = 4
    probe_pmode_init_pows: list[NotNegative] = [0.02]
    obj_omode_max: Count = 1
    obj_omode_init_occu: _Occupancy = _Occupancy()
    obj_Nlayer: Count
    obj_slice_thickness: Positive
    simu_Npix: Count | None = None
    simu_match_mode: Literal["crop", "resample"] | None = None
    meas_permute: list[int] | None = None
    meas_reshape: IntTriple | None = None
    meas_flipT: Flips | None = None
    meas_crop: Crop | None = None
    meas_pad: _PatternPadding | None = None
    meas_resample: _PatternResampling | None = None
    meas_add_source_size: Positive | None = None
    meas_add_detector_blur: Positive | None = None
    meas_remove_neg_values: _NegativeValues = _NegativeValues()
    meas_normalization: _PatternScale = _PatternScale()
    meas_add_poisson_noise: _PoissonNoise | None = None
    meas_export: Annotated[_PatternExport | None, BeforeValidator(_read_switch)] = None
    probe_permute: list[int] | None = None
    probe_z_shift: float | None = None
    probe_normalization: _ProbePower = _ProbePower()
    pos_scan_flipT: Flips | None = None
    pos_scan_affine: Quadruple | None = None
    pos_scan_rand_std: NotNegative | None = 0.15
    obj_z_crop: IntPair | None = None
    obj_z_pad: _LayerPadding | None = None
    obj_z_resample: _LayerResampling | None = None
    meas_source: Literal["file", "tif", "tiff", "mat", "h5", "hdf5", "zarr", "npy", "raw", "custom"] = "file"
    meas_params: Any
    probe_source: Source = "simu"
    probe_params: Any = None
    pos_source: Literal["simu", "PtyRAD", "PtyShv", "py4DSTEM", "foldslice_hdf5", "custom"] = "simu"
    pos_params: Any = None
    obj_source: Source = "simu"
    obj_params: Any = None
    tilt_source: Literal["simu", "PtyRAD", "file", "custom"] = "simu"
    tilt_params: Any = {"tilt_type": "all", "init_tilts": [[0.0, 0.0]]}

    @model_validator(mode="after")
    def _check_beam(self) -> Self:
        """Each kind of beam needs its settings; those of the other kind are passed over, as in PtyRAD."""
        photons = ("beam_kev", "probe_dRn", "probe_Rn", "probe_D_H", "probe_D_FZP", "probe_Ls")
        electrons = ("probe_kv", "probe_conv_angle")
        xray = self.probe_illum_type == "xray"
        for key in photons if xray else electrons:
            if getattr(self, key) is None:
                fix = f"is missing: probe_illum_type {self.probe_illum_type} needs it"
                raise BadInput(f"init_params.{key}", None, fix)
        for key in (*electrons, "probe_aberrations") if xray else photons:
            setattr(self, key, None)
        if xray and self.meas_calibration.mode in ("RBF", "fitRBF", "n_alpha"):
            fix = "needs an electron probe: calibrate X-rays by dx, dk, kMax, da or angleMax"
            raise BadInput("init_params.meas_calibration.mode", self.meas_calibration.mode, fix)
        return self

    @model_validator(mode="after")
    def _check_values_of_modes(self) -> Self:
        for key, modes in MODES_WITH_VALUE.items():
            given = getattr(self, key)
            if given.mode in modes and given.value is None:
                raise BadInput(f"init_params.{key}.value", None, f"is missing: mode {given.mode} needs it")
        scale = self.meas_normalization
        if scale.mode == "divide_const" and scale.value is not None and scale.value <= 0:
            raise BadInput("init_params.meas_normalization.value", None, "must be above 0 to divide by it")
        return self

    @model_validator(mode="after")
    def _check_scan(self) -> Self:
        expected = self.pos_N_scan_slow * self.pos_N_scan_fast
        if self.pos_N_scans not in (None, expected):
            fix = f"is not pos_N_scan_slow x pos_N_scan_fast = {expected}: make them agree"
            raise BadInput("init_params.pos_N_scans", self.pos_N_scans, fix)
        self.pos_N_scans = expected
        return self

    @model_validator(mode="after")
    def _check_modes(self) -> Self:
        powers = self.probe_pmode_init_pows
        count = self.probe_pmode_max
        place = "init_params.probe_pmode_init_pows"
        if count > MAX_MODES:
            raise BadInput("init_params.probe_pmode_max", count, f"must be {MAX_MODES} at most")
        if not powers or (len(powers) > 1 and len(powers) != count):
            fix = f"must be one number, or {count}, one for each mode (probe_pmode_max)"
            raise BadInput(place, powers, fix)
        if len(powers) > 1 and not math.isclose(sum(powers), 1.0, rel_tol=1e-4):
            raise BadInput(place, powers, "must add to 1")
        occupancy = self.obj_omode_init_occu
        if occupancy.occu_type == "custom" and len(occupancy.init_occu or ()) != self.obj_omode_max:
            fix = f"must be {self.obj_omode_max} numbers, one for each object mode (obj_omode_max)"
            raise BadInput("init_params.obj_omode_init_occu.init_occu", occupancy.init_occu, fix)
        return self

    @model_validator(mode="after")
    def _check_depth(self) -> Self:
        crop = self.obj_z_crop
        if crop is not None and crop[0] >= crop[1]:
            raise BadInput("init_params.obj_z_crop", crop, "must be [first, one after the last]")
        resample = self.obj_z_resample
        if resample and resample.mode == "target_Nlayer" and resample.value != int(resample.value):
            raise BadInput("init_params.obj_z_resample.value", resample.value, "must be a whole number")
        return self

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        as_measured = self.meas_crop is None and self.meas_pad is None and self.meas_resample is None
        other = self.simu_Npix not in (None, self.meas_Npix)
        if other and self.simu_match_mode is None and as_measured:
            fix = "is missing: write crop or resample to say how simu_Npix meets the detector"
            raise BadInput("init_params.simu_match_mode", None, fix)
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        """Each ``..._params`` must be what its ``..._source`` reads."""
        for part in ("meas", "probe", "pos", "obj", "tilt"):
            given = getattr(self, f"{part}_params")
            setattr(self, f"{part}_params", _check_source(part, getattr(self, f"{part}_source"), given))
        return self


class _ObjectShape(Settings):
    obj_params: list[int]


def _check_source(part: str, source: str, given: Any) -> Any:
    """The ``..._params`` of a part, checked."""
    place = f"init_params.{part}_params"
    if source == "custom":
        fix = "needs an array in memory, which a file cannot hold: save it and name the file"
        raise BadInput(f"init_params.{part}_source", "custom", fix)
    if part == "meas" or source == "file":
        if not isinstance(given, Mapping):
            raise BadInput(place, given, "must be {path: ..., key: ...}")
        return check(_Stored, given, place)
    if source != "simu":
        if not isinstance(given, str) or not given:
            raise BadInput(place, given, f"must be the name of a file: {part}_source is {source}")
        return given
    return _check_simulation(part, given, place)


def _check_simulation(part: str, given: Any, place: str) -> Any:
    if part == "tilt":
        tilts = check(_Tilts, given, place)
        return _Tilts(tilt_type=tilts.tilt_type or "all", init_tilts=tilts.init_tilts or [[0.0, 0.0]])
    if given is None:
        return None
    if part != "obj":
        raise BadInput(place, given, f"must be null: {part}_source is simu")
    shape = check(_ObjectShape, {"obj_params": given}, "init_params").obj_params
    if len(shape) != 4 or min(shape) < 1:
        raise BadInput(place, given, "must be [modes, slices, rows, columns], or null")
    return shape
