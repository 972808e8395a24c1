"""From PtyRAD's data settings to our reader and the steps of our preparation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from phaseloom.compat.ptyrad.translation.project import Project
from phaseloom.errors import BadInput, nearest
from phaseloom.units import electron_wavelength, photon_wavelength

__all__ = ["translate_preparation", "translate_reader"]

_READERS = {
    ".raw": "raw",
    ".tif": "tif",
    ".tiff": "tif",
    ".npy": "npy",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".zarr": "zarr",
    ".mat": "mat",
}
_SCALES = {
    "max_at_one": "max at one",
    "mean_at_one": "mean at one",
    "sum_to_one": "sum to one",
    "divide_const": "divide",
}
_NEGATIVE_VALUES = {
    "clip_value": "clip below",
    "subtract_min": "subtract minimum",
    "subtract_value": "subtract",
}
_FILLS = {
    "constant": "constant",
    "edge": "edge",
    "linear_ramp": "ramp",
    "exp": "exponential",
    "power": "power",
}


def translate_reader(project: Project, /) -> dict[str, Any]:
    """The fields ``file`` and ``read`` of a recipe."""
    init = project.init
    path = Path(project.resolve_path(init["meas_params"]["path"]))
    name = _choose_reader(project, path)
    knobs: dict[str, Any] = {
        "energy": f"{init['beam_kev' if project.xray else 'probe_kv']:.12g} keV",
        "beam": "photon" if project.xray else "electron",
        "angle": f"{1e3 * _pixel_angle(project):.12g} mrad",
        "step": project.format_length("pos_scan_step_size", init["pos_scan_step_size"]),
        "grid": [init["pos_N_scan_slow"], init["pos_N_scan_fast"]],
    }
    knobs |= {key: init[f"meas_{key}"] for key in ("permute", "reshape") if init[f"meas_{key}"] is not None}
    if init["meas_remove_neg_values"]["mode"] != "clip_neg":
        knobs["negative"] = "keep"
    knobs |= _locate_patterns(project, name, path)
    return {"file": str(path), "read": {name: knobs}}


def translate_preparation(project: Project, /) -> list[Any]:
    """The steps of ``prepare``, in PtyRAD's order."""
    # PtyRAD states the size of a pattern, and its calibration rests on it
    steps: list[Any] = [{"expect": {"pattern": [project.init["meas_Npix"]] * 2}}]
    for part in (_orient, _calibrate, _crop, _scale, _pad, _degrade, _place, _select_positions, _enlarge):
        steps += part(project)
    return steps


def _choose_reader(project: Project, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        fix = f"is of no known kind: {nearest(suffix, _READERS)}"
        raise BadInput("init_params.meas_params.path", path.name, fix)
    if suffix != ".mat":
        return _READERS[suffix]
    if not path.is_file():
        project.note(f"{path.name} is not there, so its version is not known: it is taken for MATLAB 7.3")
        return "hdf5"
    return "hdf5" if h5py.is_hdf5(path) else "mat"


def _pixel_angle(project: Project) -> float:
    """Radian per detector pixel; where the disk calibrates, a guess that ``calibrate`` replaces."""
    angle = _stated_pixel_angle(project)
    if angle is None:  # as if the disk had half the detector's radius
        return 4e-3 * project.init["probe_conv_angle"] / project.init["meas_Npix"]
    return angle


def _stated_pixel_angle(project: Project) -> float | None:
    """Radian per detector pixel as stated; ``None`` where it is measured on the bright-field disk."""
    init = project.init
    if project.xray:
        wavelength = photon_wavelength(1e3 * init["beam_kev"])
    else:
        wavelength = electron_wavelength(1e3 * init["probe_kv"])
    mode = init["meas_calibration"]["mode"]
    value = init["meas_calibration"]["value"]
    count = init["meas_Npix"]
    pixels = 2 / count if mode.endswith("Max") else 1  # from the edge of the detector to one pixel
    match mode:
        case "fitRBF":
            return None
        case "dx":
            return wavelength / (count * project.to_angstrom("meas_calibration.value", value))
        case "dk" | "kMax":
            return wavelength * value * (1e-10 if project.xray else 1.0) * pixels
        case "da" | "angleMax":
            return 1e-3 * value * pixels
    cone = 1e-3 * init["probe_conv_angle"]
    return cone / value if mode == "RBF" else 2 * value * cone / count


def _locate_patterns(project: Project, name: str, path: Path) -> dict[str, Any]:
    """Where the patterns are in their file, as knobs of a reader."""
    init = project.init
    given = init["meas_params"]
    knobs: dict[str, Any] = {}
    if name == "raw":
        count = init["pos_N_scan_slow"] * init["pos_N_scan_fast"]
        knobs["shape"] = given["shape"] or [count, init["meas_Npix"], init["meas_Npix"]]
        knobs["dtype"] = "float32"
        knobs["offset"] = given["offset"] or 0
        knobs["gap"] = 1024 if given["gap"] is None else given["gap"]
    if given["key"] and name in ("hdf5", "zarr"):
        key = given["key"].lstrip("/")
        knobs["dataset"] = key if name != "hdf5" or _has_dataset(path, key) else key.replace(".", "/")
    elif given["key"] and name == "mat":
        knobs["key"] = given["key"]
    if given["selection"] is not None:
        knobs["selection"] = _translate_selection(given["selection"])
    if given["zarr_kwargs"]:
        project.note("init_params.meas_params.zarr_kwargs are not used: stores are opened to be read")
    return knobs


def _has_dataset(path: Path, key: str) -> bool:
    """Whether a data set has just this name, dots and all."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return key in file


def _translate_selection(given: Any) -> list[Any]:
    """Slices of a stored array; a single number keeps its axis, of length one."""
    place = "init_params.meas_params.selection"
    if isinstance(given, int) and not isinstance(given, bool):
        given = [given]
    if not isinstance(given, list):
        raise BadInput(place, given, "must be a list of null, numbers and [start, stop, step]")
    ranges: list[Any] = []
    for axis in given:
        if isinstance(axis, list) and len(axis) <= 3 and all(n is None or isinstance(n, int) for n in axis):
            part = slice(*axis) if axis else slice(None)
            ranges.append([part.start, part.stop, part.step])
        elif axis is None:
            ranges.append(None)
        elif isinstance(axis, int):
            ranges.append([axis, axis + 1 if axis != -1 else None])
        else:
            raise BadInput(place, axis, "must be null, a number or [start, stop, step]")
    return ranges


def _orient(project: Project) -> Iterator[Any]:
    up, left, swap = project.init["meas_flipT"] or [0, 0, 0]
    yield from [{"flip": {"axis": "y", "about": "detector"}}] * up
    yield from [{"flip": {"axis": "x", "about": "detector"}}] * left
    yield from ["transpose"] * swap


def _calibrate(project: Project) -> Iterator[Any]:
    if _stated_pixel_angle(project) is None:
        semiangle = f"{project.init['probe_conv_angle']:.12g} mrad"
        yield {"calibrate": {"by": "half maximum area", "semiangle": semiangle}}


def _crop(project: Project) -> Iterator[Any]:
    """Part of the scan and of the detector."""
    crop = project.init["meas_crop"]
    if crop is None:
        return
    slow, fast, rows, columns = project.crop_ranges()
    if crop[:2] != [None, None]:
        yield {"region": {"rows": slow, "columns": fast}}
    if crop[2:] != [None, None]:
        yield {"window": {"rows": rows, "columns": columns}}


def _scale(project: Project) -> Iterator[Any]:
    """No negative counts, and PtyRAD's scale, on which its rates and floors rest."""
    negative = project.init["meas_remove_neg_values"]
    mode = negative["mode"]
    if mode != "clip_neg":
        if not negative["force"]:
            fix = "is done in any case; PtyRAD passes over it where no value is negative"
            project.note(f"init_params.meas_remove_neg_values: {mode} {fix}")
        value = {"value": negative["value"]} if mode.endswith("value") else {}
        yield {"nonnegative": {"how": _NEGATIVE_VALUES[mode], **value}}
    yield _normalise(project)


def _normalise(project: Project) -> dict[str, Any]:
    scale = project.init["meas_normalization"]
    value = {"value": scale["value"]} if scale["mode"] == "divide_const" else {}
    return {"normalise": {"by": _SCALES[scale["mode"]], **value}}


def _pad(project: Project) -> Iterator[Any]:
    """More pixels around the detector, or between its own."""
    pad = project.init["meas_pad"]
    resample = project.init["meas_resample"]
    if pad and pad["mode"] and pad["target_Npix"] > min(project.cropped_shape()[2:]):
        knobs = {"to": [pad["target_Npix"]] * 2, "fill": _FILLS[pad["padding_type"]]}
        if pad["padding_type"] in ("constant", "linear_ramp"):
            knobs["value"] = (pad["value"] or 0.0) ** 2  # theirs is an amplitude
        if pad["padding_type"] in ("exp", "power"):
            knobs["threshold"] = 70.0 if pad["threshold"] is None else pad["threshold"]
        yield {"pad": knobs | {"lazy": pad["mode"] == "on_the_fly"}}
    if resample and resample["mode"]:
        place = "init_params.meas_resample"
        zoom = min(resample["scale_factors"])
        if zoom != max(resample["scale_factors"]):
            project.note(f"{place}: both axes are resampled by {zoom:g}, as PtyRAD does")
        project.note(f"{place}: zero frequency stays in the middle (PtyRAD moves it a little)")
        lazy = resample["mode"] == "on_the_fly" or bool(pad and pad["mode"] == "on_the_fly")
        yield {"resample": {"to": [project.prepared_size()] * 2, "lazy": lazy}}


def _degrade(project: Project) -> Iterator[Any]:
    """Source size, detector blur and counting noise for simulated patterns."""
    init = project.init
    if init["meas_add_source_size"]:
        std = project.format_length("meas_add_source_size", init["meas_add_source_size"])
        yield {"source_size": {"std": std}}
    if init["meas_add_detector_blur"]:
        yield {"detector_blur": {"std": init["meas_add_detector_blur"]}}
    noise = init["meas_add_poisson_noise"]
    if not noise:
        return
    dose = noise["value"]
    if noise["unit"] == "e_per_Ang2":
        dose *= project.to_angstrom("pos_scan_step_size", init["pos_scan_step_size"]) ** 2
    yield {"poisson": {"dose": dose, "seed": init["random_seed"] or 0}}
    if init["meas_normalization"]["mode"] == "divide_const":
        project.note("init_params.meas_add_poisson_noise: patterns are counts after it, not divided again")
    else:
        yield _normalise(project)


def _place(project: Project) -> Iterator[Any]:
    """Simulated positions are flipped, made affine and jittered; those of an earlier run already were."""
    init = project.init
    source = init["pos_source"]
    if source == "simu":
        yield from _flip_positions(init["pos_scan_flipT"])
    else:
        yield {"positions": {"path": project.resolve_path(init["pos_params"])}}
        from_earlier_run = source != "foldslice_hdf5"
        _note_loaded_positions(project, from_earlier_run)
        if from_earlier_run:
            return
    scale, asymmetry, rotation, shear = init["pos_scan_affine"] or (1.0, 0.0, 0.0, 0.0)
    if (scale, asymmetry, rotation, shear) != (1, 0, 0, 0):
        angles = {"rotation": f"{rotation:.12g} deg", "shear": f"{shear:.12g} deg"}
        yield {"affine": {"scale": scale, "asymmetry": asymmetry, **angles}}
    if source == "simu" and init["pos_scan_rand_std"]:
        yield {"jitter": {"std": init["pos_scan_rand_std"], "seed": init["random_seed"] or 0}}


def _flip_positions(flips: list[int] | None) -> Iterator[Any]:
    """Positions of a raster mirrored along either axis, and their coordinates exchanged."""
    down, right, swap = flips or (0, 0, 0)
    if down or right:
        yield {"scale": {"factor": [-1.0 if down else 1.0, -1.0 if right else 1.0]}}
    if swap:
        yield {"rotate": {"angle": "90 deg"}}
        yield {"scale": {"factor": [-1.0, 1.0]}}


def _note_loaded_positions(project: Project, from_earlier_run: bool) -> None:
    """Note what PtyRAD would do a second time to positions that are loaded."""
    affine = project.init["pos_scan_affine"]
    already = "is not applied to positions that are loaded: they have it already (PtyRAD would repeat it)"
    if from_earlier_run and affine not in (None, [1, 0, 0, 0]):
        project.note(f"init_params.pos_scan_affine {already}")
    if project.init["pos_scan_flipT"] not in (None, [0, 0, 0]):
        project.note(f"init_params.pos_scan_flipT {already}")
    if project.init["pos_scan_rand_std"]:
        fix = "PtyRAD would jitter them by pos_scan_rand_std again"
        project.note(f"loaded positions are used as they are: {fix}")


def _select_positions(project: Project) -> Iterator[Any]:
    """The patterns that INDICES_MODE leaves."""
    place = "recon_params.INDICES_MODE"
    chosen = project.recon["INDICES_MODE"]
    if chosen["mode"] == "full":
        return
    scan = project.cropped_shape()[:2]
    counts = [chosen["subscan_slow"] or scan[0] // 2, chosen["subscan_fast"] or scan[1] // 2]
    for count, full in zip(counts, scan, strict=True):
        if not 1 <= count <= full:
            raise BadInput(place, count, f"does not fit a scan of {full}: choose fewer")
    if chosen["mode"] == "center":
        first = [(full - count) // 2 for count, full in zip(counts, scan, strict=True)]
        rows, columns = ([start, start + count] for start, count in zip(first, counts, strict=True))
        yield {"region": {"rows": rows, "columns": columns}}
        return
    every = [max(1, round((n - 1) / max(count - 1, 1))) for count, n in zip(counts, scan, strict=True)]
    found = [len(range(0, n, step)) for n, step in zip(scan, every, strict=True)]
    if found != counts:
        words = f"{found[0]} x {found[1]} patterns instead of {counts[0]} x {counts[1]}"
        project.note(f"{place}: sub takes every {every[0]}. line and {every[1]}. pattern: {words}")
    yield {"region": {"every": every}}


def _enlarge(project: Project) -> Iterator[Any]:
    """Patterns modelled on a larger grid than the detector's."""
    size = project.init["simu_Npix"]
    match = project.init["simu_match_mode"]
    if size is None or size == project.prepared_size():
        return
    if match is None:
        fix = "is missing: write crop or resample to say how simu_Npix meets the detector"
        raise BadInput("init_params.simu_match_mode", None, fix)
    yield {"enlarge": {"to": [size, size], "match": match}}
