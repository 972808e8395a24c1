"""Results of CDTools models: plain dicts of numpy arrays, HDF5 files of them, ours and those of CDTools 0.3.

Where positions lie between pixels, CDTools moves the probe from the pixel below and we from the nearest one,
so that tails which leave the window come back in other places; `SimplePtycho` there rounds positions.
"""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.build import Options, build_model
from phaseloom.compat.cdtools.datasets.base import METRES_PER_ANGSTROM, to_scan, to_translations
from phaseloom.compat.cdtools.objectives import named_parts
from phaseloom.compat.cdtools.tools.data import h5_to_nested_dict, nested_dict_to_h5
from phaseloom.data.formats.files import open_hdf5
from phaseloom.data.importers.cdtools import convert_state, find_gap
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole_hdf5
from phaseloom.physics import tilted_planes as tilted_sample
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.ptycho.scans import Canvas, Positions

__all__ = [
    "as_text",
    "collect_results",
    "compute_translations",
    "is_of_cdtools",
    "object_basis",
    "read_results",
]
__all__ += ["rebuild_model", "write_results"]

log = logging.getLogger(__name__)

Results = dict[str, Any]
State = Mapping[str, Any]
FLAGS = ("fourier_probe", "exponentiate_obj", "phase_only", "near_field")

PARALLEL_MAGNIFICATION = 1e-5
"""Magnification above one below which CDTools' near field is that of a parallel beam."""


class Saveable(Protocol):
    """What a model needs to be saved."""

    core: Ptychography
    fit: Any
    options: Options
    scan: Scan4D


@torch.no_grad()
def collect_results(model: Saveable, scan: Scan4D | None, /) -> Results:
    """Everything that was found, in CDTools' names and units, and what it takes to make the model again.

    ``background`` is in counts and ``probe`` in their square roots; ``original_translations`` are those of
    the given scan, or else of the one that the model was made of.
    """
    core = model.core
    options = model.options
    own = model.scan
    basis = object_basis(model)
    background = core.detector.display(core.detector.background())
    first = own if scan is None else scan
    heights = core.heights
    return {
        "state_dict": {name: to_copy(value) for name, value in core.state_dict().items()},
        "loss_history": np.array(model.fit.losses),
        "epoch": len(model.fit.losses),
        "training_history": "\n".join(model.fit.lines),
        "loss_function": options.loss,
        "model_class": type(model).__name__,
        "phaseloom_version": version("phaseloom"),
        "obj_basis": basis,
        "probe_basis": basis.copy(),
        "translations": compute_translations(model),
        "original_translations": to_translations(first.positions, first.heights, first.geometry),
        "probe": to_copy(core.probe.modes()),
        "obj": _squeeze(to_copy(core.object.transmission())),
        "background": to_copy(background),
        "weights": to_copy(core.detector.weights),
        "oversampling": options.oversampling,
        "translation_scale": core.scan.step,
        "wavelength": own.geometry.wavelength * METRES_PER_ANGSTROM,
        "positions": np.array(own.positions),
        "heights": np.zeros(0) if own.heights is None else np.array(own.heights),
        "depth_of_focus": 0.0 if heights is None else heights.unit,
        "options": json.dumps(vars(options)),
        "geometry": json.dumps(asdict(own.geometry)),
        "canvas": json.dumps(asdict(core.object.canvas)),
        "frozen": json.dumps([name for name, some in named_parts(core).items() if not some[0].requires_grad]),
    }


def object_basis(model: Saveable, /) -> np.ndarray:
    """Steps ``(3, 2)`` of the object's rows and columns, metres."""
    lab = model.scan.geometry
    step = model.core.scan.canvas.pixel
    basis = (
        tilted_sample.grid_steps(lab.basis, step, lab.normal)
        if lab.has_tilted_sample
        else np.asarray(lab.basis) * step
    )
    return basis * METRES_PER_ANGSTROM


@torch.no_grad()
def compute_translations(model: Saveable, /) -> np.ndarray:
    """Translations of the beam as they are now, metres ``(n, 3)``."""
    heights = model.scan.heights if model.core.heights is None else model.core.heights.angstrom()
    return to_translations(model.core.scan.angstrom(), heights, model.scan.geometry)


def rebuild_model(
    found: Mapping[str, Any], scan: Scan4D | None = None, /
) -> tuple[Ptychography, Options, Scan4D]:
    """The model of results, with a scan that knows everything but its patterns, which are all ones.

    Args:
        found: what ``save_results`` gave, or ``save_to_h5`` wrote, here or in CDTools.
        scan: the data, for results of CDTools that hold no translations.

    Raises:
        BadInput: results of another program, of a probe that is not free, of a model that has no counterpart
            here, or without translations and no data.
    """
    return _rebuild_cdtools(found, scan) if is_of_cdtools(found) else _rebuild_ours(dict(found))


def _rebuild_ours(found: Results, /) -> tuple[Ptychography, Options, Scan4D]:
    missing = [name for name in ("state_dict", "options", "geometry", "positions") if name not in found]
    if missing:
        raise BadInput("results", None, f"lack {', '.join(missing)}: they are not of this package")
    options = Options(**json.loads(found["options"]))
    shaped: dict[str, Any] = json.loads(found["geometry"])
    if not options.free_probe:
        fix = "are of a probe from optics: use from_dataset and core.load_state_dict"
        raise BadInput("results", None, fix)
    shaped.update({name: tuple(shaped[name]) for name in ("shape", "angle")})
    shaped["basis"] = tuple(map(tuple, shaped["basis"]))
    geometry = Geometry(**shaped)
    positions = np.asarray(found["positions"])
    heights = np.asarray(found["heights"])
    counts = np.broadcast_to(np.float32(1), (len(positions), *geometry.shape))
    scan = Scan4D(
        counts=counts, positions=positions, geometry=geometry, heights=heights if heights.size else None
    )
    core, options = build_model(scan, options)
    if "canvas" in found:
        stored = json.loads(found["canvas"])
        place: dict[str, Any] = {name: value and tuple(value) for name, value in stored.items()}
        _move_canvas(core, scan, Canvas(**place))
    if core.heights is not None:
        core.heights.unit = float(found["depth_of_focus"])
    core.load_state_dict({name: torch.as_tensor(value) for name, value in found["state_dict"].items()})
    if "translation_scale" not in found:  # once offsets were pixels, whatever the scale
        core.scan.offsets.data.div_(core.scan.step)
    for name in json.loads(found.get("frozen", "[]")):
        for parameter in named_parts(core)[name]:
            parameter.requires_grad_(False)
    return core, options, scan


def _move_canvas(core: Ptychography, scan: Scan4D, canvas: Canvas, /) -> None:
    """Give a model an empty object of another size in another place; positions stay where they are."""
    old = core.object
    if canvas == old.canvas:
        return
    states, slices = old.transmission().shape[:2]
    empty = torch.ones(states, slices, *canvas.shape, dtype=torch.complex64)
    kind: Any = type(old)
    core.object = kind(empty, old.kind, old.gaps, canvas, old.occupancy)
    step = core.scan.step
    core.scan = Positions.of(scan, canvas)
    core.scan.step = step


def is_of_cdtools(found: Mapping[str, Any], /) -> bool:
    """Whether results are those of CDTools."""
    return "cdtools_version" in found


def _rebuild_cdtools(
    found: Mapping[str, Any], scan: Scan4D | None, /
) -> tuple[Ptychography, Options, Scan4D]:
    state = found["state_dict"]
    name = as_text(found["model_class"])
    _check_models(state, name)
    scan = _scan(state, scan)
    imported = convert_state(state, "results")
    modes = torch.as_tensor(imported.probe)
    options = _options(found, state, len(modes))
    core, options = build_model(scan, options, modes)
    rows, columns = np.shape(state["obj"])[-2:]
    canvas = core.object.canvas
    first = np.array(imported.origin) / np.array(imported.pixel)
    origin = first * np.array(canvas.pixel)
    size = (int(rows), int(columns))
    _move_canvas(core, scan, replace(canvas, shape=size, origin=(float(origin[0]), float(origin[1]))))
    with torch.no_grad():
        _fill(core, state, modes)
    if name == "SimplePtycho":
        for part in ("translation_offsets", "weights", "background"):
            named_parts(core)[part][0].requires_grad_(False)
    return core, options, scan


def _check_models(state: State, name: str) -> None:
    """Stop where our model would show other patterns."""
    if name not in ("FancyPtycho", "SimplePtycho", "MultislicePtycho"):
        raise BadInput("results", name, "are of a model that cannot be taken over from CDTools")
    normal = np.asarray(state.get("surface_normal", (0, 0, 1)), float)
    flight = np.abs(np.asarray(state.get("interslice_propagator", 1.0)))
    refused = {
        "object modes": np.ndim(state["obj"]) > 2 and "interslice_propagator" not in state,
        "propagator_fourier_crop": bool((flight < 0.5).any()),
        "simulate_finite_pixels": bool(state.get("simulate_finite_pixels", False)),
        "simulate_probe_translation": bool(state.get("simulate_probe_translation", False)),
        "a tilted sample": not np.allclose(np.abs(normal), (0, 0, 1)),
    }
    for what, here in refused.items():
        if here:
            raise BadInput("results", what, "of CDTools cannot be taken over: fit the data again here")


def _scan(state: State, scan: Scan4D | None) -> Scan4D:
    """Geometry, positions, mask and efficiency, with patterns of ones."""
    if "original_translations" not in state:
        if scan is None:
            fix = "are not in this file: give the dataset too, from_results_h5(file, dataset)"
            raise BadInput("results: translations", None, fix)
        return replace(scan, background=None, flat=None, weights=None)
    places = np.asarray(state["original_translations"], float)
    detector = {"distance": float(state["det_distance"]), "basis": np.asarray(state["det_basis"], float)}
    return to_scan(
        places,
        np.broadcast_to(np.float32(1), (len(places), *np.shape(state["background"]))),
        wavelength=float(state["wavelength"]),
        detector_geometry=detector,
        mask=state.get("mask"),
        qe_mask=state.get("qe_mask"),
    )


def _options(found: Mapping[str, Any], state: State, modes: int) -> Options:
    flags: dict[str, Any] = {name: bool(state.get(name, False)) for name in FLAGS}
    flags["phase_only"] &= flags["exponentiate_obj"]  # else only the start of theirs had no modulus
    support = np.asarray(state.get("probe_support", True), bool)
    crop = _crop(state)
    radius = None if support.all() else float(np.sqrt(support.sum() / np.pi))
    if radius is not None and (crop or flags["fourier_probe"]):
        log.warning("results of CDTools: the support of the probe is not kept in further fits")
        radius = None
        crop = 0
        flags["fourier_probe"] = False
    return Options(
        n_modes=modes,
        dm_rank=np.shape(state["weights"])[1] if np.ndim(state.get("weights", 0)) == 3 else None,
        oversampling=int(state.get("oversampling", 1)),
        translation_scale=float(state.get("translation_scale", 1.0)),
        saturation=float(state["saturation"]) if state.get("saturation") is not None else None,
        use_qe_mask=state.get("qe_mask") is not None,
        allow_probe_fourier_shifts="probe_fourier_shifts" in state,
        propagation_distance=_focus(state) if flags["near_field"] else None,
        probe_support_radius=radius,
        probe_fourier_crop=crop or None,
        loss=as_text(found.get("loss_function", "amplitude mse")).replace("_", " "),
        nz=len(state["obj"]) if "interslice_propagator" in state else 1,
        dz=find_gap(state) if "interslice_propagator" in state else 0.0,
        **flags,
    )


def _crop(state: State) -> int:
    """Plane waves that the probe lacks at each edge, the same on all."""
    if "background" not in state:
        return 0
    window = np.array(np.shape(state["background"])) * int(state.get("oversampling", 1))
    return int(min(window - np.shape(state["probe"])[-2:])) // 2


def _focus(state: State) -> float | None:
    """From the focus to the sample in metres; ``None``: a parallel beam."""
    detector, sample = (np.linalg.norm(np.asarray(state[k])[:, 0]) for k in ("det_basis", "obj_basis"))
    larger = float(detector / (sample * int(state["oversampling"]))) - 1
    return None if abs(larger) < PARALLEL_MAGNIFICATION else float(state["det_distance"]) / larger


def _fill(core: Ptychography, state: State, modes: Tensor) -> None:
    """Put the numbers of CDTools where they belong."""
    read = {name: torch.as_tensor(np.asarray(value)) for name, value in state.items()}
    support = getattr(core.probe, "support", None)
    if support is not None and support.disk is not None:
        support.disk.copy_(read["probe_support"])
        Probe.set_modes(core.probe, modes)  # pyright: ignore[reportArgumentType]
    if isinstance(core.probe, RelaxedProbe):
        core.probe.mixture.copy_(read["weights"])
    elif "weights" in read:
        core.detector.weights.copy_(read["weights"].square())
    _object(core, state, read["obj"])
    detector = core.detector
    detector.scale.fill_(float(modes.abs().square().sum() / detector.mask.numel()) ** 0.5)
    dark = read.get("background", torch.zeros(tuple(detector.mask.shape)))
    detector.root.copy_(detector.arrange(dark.abs()) / detector.scale)
    if "translation_offsets" in read:
        core.scan.offsets.copy_(read["translation_offsets"])
    if "probe_fourier_shifts" in read:
        window = torch.tensor(core.scan.canvas.window)
        core.propagator.descan.copy_(
            read["probe_fourier_shifts"] * read["oversampling"] * window / (window - 1)
        )
    _collect(core, int(state.get("oversampling", 1)))


def _object(core: Ptychography, state: State, stored: Tensor) -> None:
    thing = core.object
    if thing.kind == "complex":
        thing.wave.copy_(stored)
        return
    thing.phase.copy_(stored.real)
    if thing.kind == "amplitude and phase":
        thing.amplitude.copy_(torch.exp(-stored.imag))


def _collect(core: Ptychography, over: int) -> None:
    """Each pixel of the detector collects ``over`` finer ones on each axis, from its first one on."""
    response = core.detector.response
    if response is None or over == 1:
        return
    for name, size in zip(("rows", "columns"), core.detector.mask.shape, strict=True):
        block = torch.eye(size).repeat_interleave(over, dim=1)
        setattr(response, name, block if core.detector.near else torch.fft.ifftshift(block, dim=(0, 1)))


def as_text(value: Any, /) -> str:
    """Text of a file, however it was stored."""
    value = value[()] if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def write_results(path: str | os.PathLike[str], found: Results, /) -> None:
    """An HDF5 file, whole or not at all."""
    with whole_hdf5(Path(path)) as file:
        file.attrs["phaseloom_cdtools"] = 1
        nested_dict_to_h5(file, found)


def read_results(path: str | os.PathLike[str], /) -> Results:
    """What `write_results` wrote."""
    with open_hdf5(Path(path)) as file:
        return h5_to_nested_dict(file)


def _squeeze(wave: np.ndarray) -> np.ndarray:
    """An object without the axes of states and of slices where it has one of either."""
    return wave.squeeze(tuple(axis for axis in (0, 1) if wave.shape[axis] == 1))


def to_copy(value: Tensor) -> np.ndarray:
    """A copy: what is saved must not move on with the model."""
    return np.array(value.detach().cpu().resolve_conj().resolve_neg().numpy())
