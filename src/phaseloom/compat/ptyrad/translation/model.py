"""From PtyRAD's object, probe, tilts and detector to the parts of our model."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from phaseloom.compat.ptyrad.translation.project import Project
from phaseloom.errors import BadInput

__all__ = ["count_slices", "translate_model"]

MAX_ABERRATION_ORDER = 5
"""Order of the highest aberration of our optics."""

MIN_MODE_POWER = 1e-9
"""Share of the power below which a mode would start as nothing."""


def translate_model(project: Project, /) -> dict[str, Any]:
    """The fields ``object``, ``probe``, ``propagator`` and ``detector`` of a recipe."""
    return {
        "object": _translate_object(project),
        "probe": _translate_probe(project),
        "propagator": _translate_propagator(project),
        "detector": _translate_detector(project),
    }


def count_slices(project: Project, /) -> tuple[int, float]:
    """Number of slices at the start of the run and their distance in angstrom."""
    count = _count_stored_slices(project)
    crop = project.init["obj_z_crop"]
    if crop:
        count = len(range(count)[slice(*crop)])
    count += sum(_padding(project))
    if count < 1:
        raise BadInput("init_params.obj_z_crop", crop, "leaves no slice: let the first be before the last")
    final = _count_slices(project, count)
    return final, project.thickness * count / final


def _count_stored_slices(project: Project) -> int:
    """Slices before any are cut off, added or resampled."""
    init = project.init
    if init["obj_source"] == "simu":
        shape = init["obj_params"]
        return init["obj_Nlayer"] if shape is None else shape[1]
    path = Path(project.resolve_path(project.init["obj_params"]))
    if not path.is_file():
        return init["obj_Nlayer"]
    from phaseloom.data.importers import read

    stored = read(path).object
    return init["obj_Nlayer"] if stored is None else stored.shape[1]


def _padding(project: Project) -> tuple[int, int]:
    """Slices added before and after."""
    pad = project.init["obj_z_pad"]
    before, after = pad["pad_layers"] if pad else (0, 0)
    return before or 0, after or 0


def _count_slices(project: Project, count: int) -> int:
    resample = project.init["obj_z_resample"]
    if not resample:
        return count
    value = resample["value"]
    match resample["mode"]:
        case "target_Nlayer":
            return round(value)
        case "scale_Nlayer":
            factor = value
        case "scale_slice_thickness":
            factor = 1 / value
        case _:
            factor = project.thickness / project.to_angstrom("obj_z_resample.value", value)
    final = math.floor(count * factor + 1e-9)
    if final < 1:
        raise BadInput("init_params.obj_z_resample.value", value, "leaves less than one slice")
    return final


def _translate_object(project: Project) -> dict[str, Any]:
    init = project.init
    count, thickness = count_slices(project)
    modes = init["obj_omode_max"]
    simulated = init["obj_source"] == "simu"
    if simulated and init["obj_params"] is not None:
        modes = init["obj_params"][0]
        fix = "rows and columns follow from the scan; modes and slices are taken"
        project.note(f"init_params.obj_params: {fix}")
    knobs: dict[str, Any] = {"kind": "amplitude and phase"}
    if modes > 1:
        knobs["modes"] = modes
    if init["obj_omode_init_occu"]["occu_type"] == "custom":
        knobs["occupancies"] = init["obj_omode_init_occu"]["init_occu"]
    gap = {"thickness": f"{thickness:.12g} A"} if count > 1 else {}
    if simulated:
        return {"pixels": {"slices": count, **gap, **knobs}}
    if init["obj_z_resample"]:
        knobs["slices"] = count - sum(_resampled_padding(project, count))
    knobs = {"modes": modes, "occupancies": [1 / modes] * modes} | knobs
    return {
        "from_file": {
            "path": project.resolve_path(project.init["obj_params"]),
            **gap,
            **_depth(project, count),
            **knobs,
        }
    }


def _depth(project: Project, count: int) -> dict[str, Any]:
    """Slices cut off and added; where PtyRAD pads before it resamples, the padding is resampled here."""
    knobs: dict[str, Any] = {}
    if project.init["obj_z_crop"]:
        knobs["crop"] = project.init["obj_z_crop"]
    padding = _resampled_padding(project, count)
    if sum(padding):
        first, last = project.init["obj_z_pad"]["pad_types"]
        knobs |= {"pad": list(padding), "fill": first if first == last else [first, last]}
    return knobs


def _resampled_padding(project: Project, count: int) -> tuple[int, int]:
    """Slices added before and after, in the final thickness of slices."""
    before, after = _padding(project)
    if not project.init["obj_z_resample"] or not (before or after):
        return before, after
    before_resampling = count * count_slices(project)[1] / project.thickness
    return round(before * count / before_resampling), round(after * count / before_resampling)


def _translate_probe(project: Project) -> dict[str, Any]:
    init = project.init
    if init["probe_permute"] not in (None, [0, 1, 2]):
        project.note("init_params.probe_permute is not used: the axes of a probe are found out")
    shift = project.to_angstrom("probe_z_shift", init["probe_z_shift"] or 0.0)
    if init["probe_source"] != "simu":
        knobs: dict[str, Any] = {
            "path": project.resolve_path(project.init["probe_params"]),
            "modes": init["probe_pmode_max"],
        }
        if shift:
            knobs["forward"] = f"{shift:.12g} A"
        return {"from_file": knobs | {"relative": False} | _power(project)}
    name = "zone_plate" if project.xray else "focused"
    knobs = _zone_plate(project, shift) if project.xray else _lenses(project, shift)
    return {name: knobs | _modes(project) | {"relative": False} | _power(project)}


def _power(project: Project) -> dict[str, Any]:
    """Counts of the beam, where they are not the mean of the patterns'."""
    power = project.init["probe_normalization"]
    if power["mode"] == "max_total_ints":
        return {"power": "brightest"}
    return {"power": power["value"]} if power["mode"] == "target_intensity" else {}


def _lenses(project: Project, shift: float) -> dict[str, Any]:
    """An electron probe; a shift along the beam is subtracted from the defocus."""
    lenses = dict(project.init["probe_aberrations"] or {})
    defocus = -lenses.pop("C10", 0.0) - shift
    knobs: dict[str, Any] = {"semiangle": f"{project.init['probe_conv_angle']:.12g} mrad"}
    knobs["defocus"] = f"{defocus + 0.0:.12g} A"  # + 0.0 makes -0.0 a 0
    aberrations = {}
    for name, value in lenses.items():
        if int(name.removeprefix("C").removeprefix("phi")[0]) > MAX_ABERRATION_ORDER:
            fix = f"is left out: our optics ends with order {MAX_ABERRATION_ORDER}"
            project.note(f"init_params.probe_aberrations.{name} {fix}")
        else:
            aberrations[name] = f"{value:.12g} {'deg' if name.startswith('phi') else 'A'}"
    if aberrations:
        knobs["aberrations"] = aberrations
    return knobs


def _zone_plate(project: Project, shift: float) -> dict[str, Any]:
    """A zone plate behind a pinhole, which bounds it: the focal length is that of the whole plate."""
    init = project.init
    hole = init["probe_D_FZP"]
    return {
        "diameter": f"{hole:.12g} m",
        "outermost_zone": f"{2 * init['probe_Rn'] * init['probe_dRn'] / hole:.12g} m",
        "beamstop": f"{init['probe_D_H']:.12g} m",
        "defocus": f"{-1e10 * init['probe_Ls'] - shift + 0.0:.12g} A",
    }


def _modes(project: Project) -> dict[str, Any]:
    """Modes and their shares of the power."""
    count = project.init["probe_pmode_max"]
    powers = project.init["probe_pmode_init_pows"]
    if count == 1:
        return {"modes": 1}
    if len(powers) > 1:
        fix = "are the starting powers of the modes (PtyRAD 1.0 takes only the smallest of them)"
        project.note(f"init_params.probe_pmode_init_pows {powers} {fix}")
        return {"modes": count, "shares": [max(power, MIN_MODE_POWER) for power in powers]}
    weak = max(powers[0], MIN_MODE_POWER)
    total = 1 + (count - 1) * weak
    return {"modes": count, "shares": [1 / total, *[weak / total] * (count - 1)]}


def _translate_propagator(project: Project) -> Any:
    source = project.init["tilt_source"]
    given = project.init["tilt_params"]
    if source == "PtyRAD":
        return {"exact": {"tilts": project.resolve_path(project.init["tilt_params"])}}
    if source == "file":
        path = Path(project.resolve_path(given["path"]))
        if path.suffix == ".npy" or not path.is_file():
            return {"exact": {"tilts": str(path)}}
        tilts = _read_tilts(path, given["key"])
        each = False
    else:
        tilts = given["init_tilts"]
        each = given["tilt_type"] == "each"
    if any(tilt != tilts[0] for tilt in tilts):
        fix = "differ from position to position: save them as .npy and write tilt_source: file"
        raise BadInput("init_params.tilt_params", None, fix)
    if not any(tilts[0]) and not each:
        return "exact"
    return {"exact": {"tilt": [f"{value:.12g} mrad" for value in tilts[0]], "each": each}}


def _read_tilts(path: Path, key: str | None) -> list[list[float]]:
    """Rows of (y, x) in milliradian of a table in HDF5, MATLAB or TIFF."""
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                table = np.asarray(file[(key or "").replace(".", "/") or next(iter(file))])
        elif path.suffix.lower() == ".mat":
            from scipy.io import loadmat

            found = loadmat(path)
            table = found[key] if key else next(v for k, v in found.items() if not k.startswith("__"))
        else:
            from tifffile import imread

            table = imread(path)
        return np.asarray(table, float).reshape(-1, 2).tolist()
    except (OSError, KeyError, ValueError, TypeError, StopIteration, ImportError) as error:
        place = f"init_params.tilt_params.path: {path.name}"
        fix = "holds no table of two columns under this key: save it as .npy"
        raise BadInput(place, None, fix) from error


def _translate_detector(project: Project) -> Any:
    knobs: dict[str, Any] = {}
    if project.model["detector_blur_std"]:
        knobs["blur"] = project.model["detector_blur_std"]
    enlarged = project.init["simu_Npix"] not in (None, project.prepared_size())
    if enlarged and project.init["simu_match_mode"] == "resample":
        knobs["collect"] = "bilinear"
    return {"counting": knobs} if knobs else "counting"
