"""From PtyRAD's data settings to our reader and the steps of our preparation."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py

from phaseloom.compat.ptyrad.project import Project
from phaseloom.errors import BadInput, nearest

__all__ = ["prepared", "read"]

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
_LEVELS = {
    "max_at_one": "max at one",
    "mean_at_one": "mean at one",
    "sum_to_one": "sum to one",
    "divide_const": "divide",
}
_NEGATIVE = {
    "clip_neg": "clip",
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


def read(project: Project, /) -> dict[str, Any]:
    """The fields ``file`` and ``read`` of a recipe."""
    init, given = project.init, project.init["meas_params"]
    path = project.path(given["path"])
    name = _reader(project, Path(path))
    slow, fast = init["pos_N_scan_slow"], init["pos_N_scan_fast"]
    knobs: dict[str, Any] = {
        "energy": f"{init['beam_kev' if project.xray else 'probe_kv']:.12g} keV",
        "beam": "photon" if project.xray else "electron",
        "angle": f"{1e3 * _angle(project):.12g} mrad",
        "step": project.length("pos_scan_step_size", init["pos_scan_step_size"]),
        "grid": [slow, fast],
    }
    knobs |= {key: init[f"meas_{key}"] for key in ("permute", "reshape") if init[f"meas_{key}"] is not None}
    if init["meas_remove_neg_values"]["mode"] != "clip_neg":
        knobs["negative"] = "keep"
    knobs |= _inside(project, name, given, Path(path))
    return {"file": path, "read": {name: knobs}}


def prepared(project: Project, /) -> list[Any]:
    """The steps of ``prepare``, in PtyRAD's order."""
    return [step for part in _PARTS for step in part(project)]


def _reader(project: Project, path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise BadInput(
            "init_params.meas_params.path", path.name, f"is of no known kind: {nearest(suffix, _READERS)}"
        )
    if suffix != ".mat":
        return _READERS[suffix]
    if not path.is_file():
        project.note(f"{path.name} is not there, so its version is not known: it is taken for MATLAB 7.3")
        return "hdf5"
    return "hdf5" if h5py.is_hdf5(path) else "mat"


def _angle(project: Project) -> float:
    """Stated, or a guess that a disk of half the detector's radius would give; `calibrate` mends it."""
    stated = _stated(project)
    return (
        stated if stated is not None else 4e-3 * project.init["probe_conv_angle"] / project.init["meas_Npix"]
    )


def _stated(project: Project) -> float | None:
    """Radian per detector pixel as stated; ``None`` where the bright-field disk is to tell."""
    init, wavelength = project.init, project.wavelength
    mode, value, count = (
        init["meas_calibration"]["mode"],
        init["meas_calibration"]["value"],
        init["meas_Npix"],
    )
    if mode == "fitRBF":
        return None
    if mode == "dx":
        return wavelength / (count * project.angstrom("meas_calibration.value", value))
    if mode in ("dk", "kMax"):
        return wavelength * value * (1e-10 if project.xray else 1.0) * (1 if mode == "dk" else 2 / count)
    if mode in ("da", "angleMax"):
        return 1e-3 * value * (1 if mode == "da" else 2 / count)
    cone = 1e-3 * init["probe_conv_angle"]
    return cone / value if mode == "RBF" else 2 * value * cone / count


def _holds(path: Path, key: str) -> bool:
    """Whether a data set has just this name, dots and all."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with h5py.File(path) as file:
        return key in file


def _size(project: Project) -> Iterator[Any]:
    """PtyRAD says how large a pattern is, and its calibration rests on it."""
    yield {"expect": {"pattern": [project.init["meas_Npix"]] * 2}}


def _inside(project: Project, name: str, given: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Where the patterns are in their file."""
    init, knobs = project.init, {}
    if name == "raw":
        count, size = init["pos_N_scan_slow"] * init["pos_N_scan_fast"], init["meas_Npix"]
        knobs["shape"] = given["shape"] or [count, size, size]
        knobs["dtype"] = "float32"
        knobs["offset"] = given["offset"] or 0
        knobs["gap"] = 1024 if given["gap"] is None else given["gap"]
    if given["key"] and name in ("hdf5", "zarr"):
        key = given["key"].lstrip("/")
        knobs["dataset"] = key if name != "hdf5" or _holds(path, key) else key.replace(".", "/")
    elif given["key"] and name == "mat":
        knobs["key"] = given["key"]
    if given["selection"] is not None:
        knobs["selection"] = _selection(given["selection"])
    if given["zarr_kwargs"]:
        project.note("init_params.meas_params.zarr_kwargs are not used: stores are opened to be read")
    return knobs


def _selection(given: Any) -> list[Any]:
    """Slices of a stored array; a single number keeps its axis, of length one."""
    place = "init_params.meas_params.selection"
    if isinstance(given, int) and not isinstance(given, bool):
        given = [given]
    if not isinstance(given, list):
        raise BadInput(place, given, "must be a list of null, numbers and [start, stop, step]")
    out: list[Any] = []
    for axis in given:
        if isinstance(axis, list) and len(axis) <= 3 and all(n is None or isinstance(n, int) for n in axis):
            cut = slice(*axis) if axis else slice(None)
            out.append([cut.start, cut.stop, cut.step])
        elif axis is None:
            out.append(None)
        elif isinstance(axis, int):
            out.append([axis, axis + 1 if axis != -1 else None])
        else:
            raise BadInput(place, axis, "must be null, a number or [start, stop, step]")
    return out


def _orientation(project: Project) -> Iterator[Any]:
    up, left, swap = project.init["meas_flipT"] or [0, 0, 0]
    yield from [{"flip": {"axis": "y", "about": "detector"}}] * up
    yield from [{"flip": {"axis": "x", "about": "detector"}}] * left
    yield from ["transpose"] * swap


def _calibration(project: Project) -> Iterator[Any]:
    if _stated(project) is None:
        yield {
            "calibrate": {
                "by": "half maximum area",
                "semiangle": f"{project.init['probe_conv_angle']:.12g} mrad",
            }
        }


def _cut(project: Project) -> Iterator[Any]:
    """Part of the scan and of the detector."""
    init = project.init
    crop: list[Any] = init["meas_crop"] or [None] * 4
    full = (init["pos_N_scan_slow"], init["pos_N_scan_fast"], init["meas_Npix"], init["meas_Npix"])
    ends = [[0, n] if c is None else list(slice(*c).indices(n)[:2]) for c, n in zip(crop, full, strict=True)]
    if any(c is not None for c in crop[:2]):
        yield {"region": {"rows": ends[0], "columns": ends[1]}}
    if any(c is not None for c in crop[2:]):
        yield {"window": {"rows": ends[2], "columns": ends[3]}}


def _level(project: Project) -> Iterator[Any]:
    """No negative counts, and a common scale: rates and floors mean what they mean to PtyRAD."""
    negative = project.init["meas_remove_neg_values"]
    if negative["mode"] != "clip_neg":
        if not negative["force"]:
            fix = "is done in any case; PtyRAD passes over it where no value is negative"
            project.note(f"init_params.meas_remove_neg_values: {negative['mode']} {fix}")
        value = {"value": negative["value"]} if negative["mode"].endswith("value") else {}
        yield {"nonnegative": {"how": _NEGATIVE[negative["mode"]], **value}}
    yield _normal(project)


def _normal(project: Project) -> dict[str, Any]:
    level = project.init["meas_normalization"]
    scale = {"value": level["value"]} if level["mode"] == "divide_const" else {}
    return {"normalise": {"by": _LEVELS[level["mode"]], **scale}}


def _grid(project: Project) -> Iterator[Any]:
    """More pixels around the detector, or between its own."""
    pad, resample = project.init["meas_pad"], project.init["meas_resample"]
    if pad and pad["mode"] and pad["target_Npix"] > min(project.sizes()):
        knobs = {"to": [pad["target_Npix"]] * 2, "fill": _FILLS[pad["padding_type"]]}
        if pad["padding_type"] in ("constant", "linear_ramp"):
            knobs["value"] = (pad["value"] or 0.0) ** 2  # theirs is an amplitude
        if pad["padding_type"] in ("exp", "power"):
            knobs["threshold"] = 70.0 if pad["threshold"] is None else pad["threshold"]
        yield {"pad": knobs | {"lazy": pad["mode"] == "on_the_fly"}}
    if resample and resample["mode"]:
        zoom = min(resample["scale_factors"])
        if zoom != max(resample["scale_factors"]):
            project.note(f"init_params.meas_resample: both axes are resampled by {zoom:g}, as PtyRAD does")
        project.note(
            "init_params.meas_resample: zero frequency stays in the middle (PtyRAD moves it a little)"
        )
        lazy = resample["mode"] == "on_the_fly" or bool(pad and pad["mode"] == "on_the_fly")
        yield {"resample": {"to": [project.final()] * 2, "lazy": lazy}}


def _realism(project: Project) -> Iterator[Any]:
    """What makes perfect patterns real ones: source size, detector blur, counting noise."""
    init = project.init
    if init["meas_add_source_size"]:
        std = project.length("meas_add_source_size", init["meas_add_source_size"])
        yield {"source_size": {"std": std}}
    if init["meas_add_detector_blur"]:
        yield {"detector_blur": {"std": init["meas_add_detector_blur"]}}
    noise = init["meas_add_poisson_noise"]
    if noise:
        dose = noise["value"]
        if noise["unit"] == "e_per_Ang2":
            dose *= project.angstrom("pos_scan_step_size", init["pos_scan_step_size"]) ** 2
        yield {"poisson": {"dose": dose, "seed": init["random_seed"] or 0}}
        if init["meas_normalization"]["mode"] == "divide_const":
            project.note(
                "init_params.meas_add_poisson_noise: patterns are counts after it, not divided again"
            )
        else:
            yield _normal(project)


def _positions(project: Project) -> Iterator[Any]:
    """Simulated positions are flipped, made affine and jittered; those of an earlier run already were."""
    init = project.init
    source = init["pos_source"]
    if source != "simu":
        yield {"positions": {"path": project.earlier("pos")}}
        earlier = source != "foldslice_hdf5"
        _already(project, ("pos_scan_affine", "pos_scan_flipT") if earlier else ("pos_scan_flipT",))
        if earlier:
            return
    if source == "simu":
        yield from _turned(init["pos_scan_flipT"])
    scale, asymmetry, rotation, shear = init["pos_scan_affine"] or (1.0, 0.0, 0.0, 0.0)
    if (scale, asymmetry, rotation, shear) != (1, 0, 0, 0):
        angles = {"rotation": f"{rotation:.12g} deg", "shear": f"{shear:.12g} deg"}
        yield {"affine": {"scale": scale, "asymmetry": asymmetry, **angles}}
    if source == "simu" and init["pos_scan_rand_std"]:
        yield {"jitter": {"std": init["pos_scan_rand_std"], "seed": init["random_seed"] or 0}}


def _turned(flips: list[int] | None) -> Iterator[Any]:
    """Positions of a raster mirrored along either axis, and their coordinates exchanged."""
    down, right, swap = flips or (0, 0, 0)
    if down or right:
        yield {"scale": {"factor": [-1.0 if down else 1.0, -1.0 if right else 1.0]}}
    if swap:
        yield {"rotate": {"angle": "90 deg"}}
        yield {"scale": {"factor": [-1.0, 1.0]}}


def _already(project: Project, keys: tuple[str, ...]) -> None:
    """Say what PtyRAD would do a second time to positions that are loaded."""
    neutral = {"pos_scan_affine": [1, 0, 0, 0], "pos_scan_flipT": [0, 0, 0]}
    for key in keys:
        if project.init[key] not in (None, neutral[key]):
            fix = "is not applied to positions that are loaded: they have it already (PtyRAD would repeat it)"
            project.note(f"init_params.{key} {fix}")
    if project.init["pos_scan_rand_std"]:
        project.note(
            "loaded positions are used as they are: PtyRAD would jitter them by pos_scan_rand_std again"
        )


def _chosen(project: Project) -> Iterator[Any]:
    """The patterns that INDICES_MODE leaves."""
    mode = project.tree["recon_params"]["INDICES_MODE"]
    if mode["mode"] == "full":
        return
    scan = project.scan()
    few = [mode["subscan_slow"] or scan[0] // 2, mode["subscan_fast"] or scan[1] // 2]
    for number, whole in zip(few, scan, strict=True):
        if not 1 <= number <= whole:
            raise BadInput(
                "recon_params.INDICES_MODE", number, f"does not fit a scan of {whole}: choose fewer"
            )
    if mode["mode"] == "center":
        first = [(whole - number) // 2 for number, whole in zip(few, scan, strict=True)]
        rows, columns = ([start, start + number] for start, number in zip(first, few, strict=True))
        yield {"region": {"rows": rows, "columns": columns}}
        return
    every = [max(1, round((whole - 1) / max(number - 1, 1))) for number, whole in zip(few, scan, strict=True)]
    left = [len(range(0, whole, step)) for whole, step in zip(scan, every, strict=True)]
    if left != few:
        words = f"{left[0]} x {left[1]} patterns instead of {few[0]} x {few[1]}"
        project.note(
            f"recon_params.INDICES_MODE: sub takes every {every[0]}. line and {every[1]}. pattern: {words}"
        )
    yield {"region": {"every": every}}


def _model_grid(project: Project) -> Iterator[Any]:
    """Patterns modelled on a larger grid than the detector's."""
    size, match = project.init["simu_Npix"], project.init["simu_match_mode"]
    final = project.final()
    if size is None or size == final:
        return
    if match is None:
        fix = "is missing: write crop or resample to say how simu_Npix meets the detector"
        raise BadInput("init_params.simu_match_mode", None, fix)
    yield {"enlarge": {"to": [size, size], "match": match}}


_PARTS = (_size, _orientation, _calibration, _cut, _level, _grid, _realism, _positions, _chosen, _model_grid)
