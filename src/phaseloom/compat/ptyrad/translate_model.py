"""From PtyRAD's object, probe, tilts and detector to the parts of our model."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io import loadmat

from phaseloom.compat.ptyrad.project import Project
from phaseloom.errors import BadInput

__all__ = ["modelled", "slices"]

HIGHEST = 5
"""Order of the highest aberration that our optics knows."""


def modelled(project: Project, /) -> dict[str, Any]:
    """The fields ``object``, ``probe``, ``propagator`` and ``detector`` of a recipe."""
    return {
        "object": _object(project),
        "probe": _probe(project),
        "propagator": _propagator(project),
        "detector": _detector(project),
    }


def slices(project: Project, /) -> tuple[int, float]:
    """Number of slices at the start of the run and their distance in angstrom."""
    count, thickness = _stored_slices(project), project.thickness
    if crop := project.init["obj_z_crop"]:
        count = len(range(count)[slice(*crop)])
    before, after = _padding(project)
    many = count + before + after
    if many < 1:
        raise BadInput("init_params.obj_z_crop", crop, "leaves no slice: let the first be before the last")
    final = _resampled(project, many)
    return final, thickness * many / final


def _stored_slices(project: Project) -> int:
    """What the object has before anything is done to it."""
    init = project.init
    if init["obj_source"] == "simu":
        shape = init["obj_params"]
        return init["obj_Nlayer"] if shape is None else shape[1]
    path = Path(project.earlier("obj"))
    if not path.is_file():
        return init["obj_Nlayer"]
    from phaseloom.data.importers import read

    found = read(path).object
    return init["obj_Nlayer"] if found is None else found.shape[1]


def _padding(project: Project) -> tuple[int, int]:
    pad = project.init["obj_z_pad"]
    before, after = (n or 0 for n in pad["pad_layers"]) if pad else (0, 0)
    return before, after


def _resampled(project: Project, many: int) -> int:
    resample = project.init["obj_z_resample"]
    if not resample:
        return many
    value = resample["value"]
    factor = {
        "scale_Nlayer": value,
        "scale_slice_thickness": 1 / value,
        "target_Nlayer": value / many,
        "target_slice_thickness": project.thickness / project.angstrom("obj_z_resample.value", value),
    }[resample["mode"]]
    count = round(value) if resample["mode"] == "target_Nlayer" else math.floor(many * factor + 1e-9)
    if count < 1:
        raise BadInput("init_params.obj_z_resample.value", value, "leaves less than one slice")
    return count


def _object(project: Project) -> dict[str, Any]:
    init = project.init
    count, thickness = slices(project)
    states = init["obj_omode_max"]
    if init["obj_source"] == "simu" and init["obj_params"] is not None:
        states = init["obj_params"][0]
        project.note(
            "init_params.obj_params: rows and columns follow from the scan; modes and slices are taken"
        )
    knobs: dict[str, Any] = {"kind": "amplitude and phase"}
    if states > 1:
        knobs["modes"] = states
    if init["obj_omode_init_occu"]["occu_type"] == "custom":
        knobs["occupancies"] = init["obj_omode_init_occu"]["init_occu"]
    gap = {"thickness": f"{thickness:.12g} A"} if count > 1 else {}
    if init["obj_source"] == "simu":
        return {"pixels": {"slices": count, **gap, **knobs}}
    if init["obj_z_resample"]:
        knobs["slices"] = count - sum(_padded(project, count))
    knobs = {"modes": states, "occupancies": [1 / states] * states} | knobs
    return {"from_file": {"path": project.earlier("obj"), **gap, **_depth(project, count), **knobs}}


def _depth(project: Project, count: int) -> dict[str, Any]:
    """Slices cut off and added; where PtyRAD pads before it resamples, the padding is resampled here."""
    knobs: dict[str, Any] = {}
    if project.init["obj_z_crop"]:
        knobs["crop"] = project.init["obj_z_crop"]
    padded = _padded(project, count)
    if sum(padded):
        first, last = project.init["obj_z_pad"]["pad_types"]
        knobs |= {"pad": list(padded), "fill": first if first == last else [first, last]}
    return knobs


def _padded(project: Project, count: int) -> tuple[int, int]:
    """Slices added before and after, in the final thickness of slices."""
    before, after = _padding(project)
    if not project.init["obj_z_resample"] or not (before or after):
        return before, after
    many = count * slices(project)[1] / project.thickness
    return round(before * count / many), round(after * count / many)


def _probe(project: Project) -> dict[str, Any]:
    init = project.init
    _left_out(project)
    shift = project.angstrom("probe_z_shift", init["probe_z_shift"] or 0.0)
    if init["probe_source"] != "simu":
        knobs: dict[str, Any] = {"path": project.earlier("probe"), "modes": init["probe_pmode_max"]}
        if shift:
            knobs["forward"] = f"{shift:.12g} A"
        return {"from_file": knobs | {"relative": False} | _power(project)}
    knobs = _zone_plate(project, shift) if project.xray else _lenses(project, shift)
    return {
        "zone_plate" if project.xray else "focused": knobs
        | _modes(project)
        | {"relative": False}
        | _power(project)
    }


def _power(project: Project) -> dict[str, Any]:
    """Counts of the beam, where they are not the mean of the patterns'."""
    level = project.init["probe_normalization"]
    if level["mode"] == "max_total_ints":
        return {"power": "brightest"}
    return {"power": level["value"]} if level["mode"] == "target_intensity" else {}


def _left_out(project: Project) -> None:
    init = project.init
    if init["probe_permute"] not in (None, [0, 1, 2]):
        project.note("init_params.probe_permute is not used: the axes of a probe are found out")


def _lenses(project: Project, shift: float) -> dict[str, Any]:
    """An electron probe; flying a distance on is so much more C10."""
    lenses = {name: value for name, value in (project.init["probe_aberrations"] or {}).items()}
    defocus = -lenses.pop("C10", 0.0) - shift
    for name in [name for name in lenses if int(name.removeprefix("C").removeprefix("phi")[0]) > HIGHEST]:
        project.note(
            f"init_params.probe_aberrations.{name} is left out: our optics ends with order {HIGHEST}"
        )
        lenses.pop(name)
    knobs: dict[str, Any] = {"semiangle": f"{project.init['probe_conv_angle']:.12g} mrad"}
    knobs["defocus"] = f"{defocus + 0.0:.12g} A"
    if lenses:
        knobs["aberrations"] = {
            name: f"{value:.12g} {'deg' if name.startswith('phi') else 'A'}" for name, value in lenses.items()
        }
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
    count, powers = project.init["probe_pmode_max"], project.init["probe_pmode_init_pows"]
    if count == 1:
        return {"modes": 1}
    if len(powers) > 1:
        fix = "are the starting powers of the modes (PtyRAD 1.0 takes only the smallest of them)"
        project.note(f"init_params.probe_pmode_init_pows {powers} {fix}")
        return {"modes": count, "shares": [max(power, 1e-9) for power in powers]}
    weak = max(powers[0], 1e-9)
    total = 1 + (count - 1) * weak
    return {"modes": count, "shares": [1 / total, *[weak / total] * (count - 1)]}


def _propagator(project: Project) -> Any:
    init, given = project.init, project.init["tilt_params"]
    if init["tilt_source"] == "PtyRAD":
        return {"exact": {"tilts": project.earlier("tilt")}}
    rows, each = given.get("init_tilts"), given.get("tilt_type") == "each"
    if init["tilt_source"] == "file":
        path = Path(project.path(given["path"]))
        if path.suffix == ".npy" or not path.is_file():
            return {"exact": {"tilts": str(path)}}
        rows, each = _tilts(path, given["key"]), False
    if any(row != rows[0] for row in rows):
        fix = "differ from position to position: save them as .npy and write tilt_source: file"
        raise BadInput("init_params.tilt_params", None, fix)
    if not any(rows[0]) and not each:
        return "exact"
    return {"exact": {"tilt": [f"{value:.12g} mrad" for value in rows[0]], "each": each}}


def _tilts(path: Path, key: str | None) -> list[list[float]]:
    """Rows of (y, x) in milliradian of a table in HDF5, MATLAB or TIFF."""
    place = f"init_params.tilt_params.path: {path.name}"
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                table = np.asarray(file[(key or "").replace(".", "/") or next(iter(file))])
        elif path.suffix.lower() == ".mat":
            found = loadmat(path)
            table = found[key] if key else next(v for k, v in found.items() if not k.startswith("__"))
        else:
            from tifffile import imread

            table = imread(path)
        return np.asarray(table, float).reshape(-1, 2).tolist()
    except (OSError, KeyError, ValueError, TypeError, StopIteration, ImportError) as error:
        raise BadInput(
            place, None, "holds no table of two columns under this key: save it as .npy"
        ) from error


def _detector(project: Project) -> Any:
    knobs: dict[str, Any] = {}
    if project.tree["model_params"]["detector_blur_std"]:
        knobs["blur"] = project.tree["model_params"]["detector_blur_std"]
    if project.init["simu_match_mode"] == "resample" and project.init["simu_Npix"] not in (
        None,
        project.final(),
    ):
        knobs["collect"] = "bilinear"
    return {"counting": knobs} if knobs else "counting"
