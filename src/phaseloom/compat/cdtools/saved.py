"""Results of CDTools models: plain dicts of numpy arrays, and HDF5 files of them."""

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import torch

from phaseloom.compat.cdtools.build import Options, experiment
from phaseloom.compat.cdtools.data import ANGSTROM, travel
from phaseloom.compat.cdtools.fit import Fit
from phaseloom.compat.cdtools.likelihood import parts
from phaseloom.data.formats.files import opened
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.files import whole
from phaseloom.physics import tilted_sample as surface
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.scans import Canvas, Positions

__all__ = ["grid", "laid", "read", "rebuilt", "refined", "results", "text", "write"]

Results = dict[str, Any]


class Saved(Protocol):
    """What is asked of a model to save it."""

    core: Ptychography
    fit: Fit
    options: Options
    scan: Scan4D


@torch.no_grad()
def results(model: Saved, scan: Scan4D | None, /) -> Results:
    """Everything that was found, in CDTools' names and units, and what it takes to make the model again.

    ``background`` is in counts and ``probe`` in their square roots; ``original_translations`` are those of
    the given scan, or else of the one that the model was made of.
    """
    core, options, own = model.core, model.options, model.scan
    basis = grid(model)
    background = core.detector.display(core.detector.background())
    first = own if scan is None else scan
    heights = core.heights
    return {
        "state_dict": {name: _plain(value) for name, value in core.state_dict().items()},
        "loss_history": np.array(model.fit.losses),
        "epoch": len(model.fit.losses),
        "training_history": "\n".join(model.fit.lines),
        "loss_function": options.loss,
        "model_class": type(model).__name__,
        "phaseloom_version": version("phaseloom"),
        "obj_basis": basis,
        "probe_basis": basis.copy(),
        "translations": refined(model),
        "original_translations": travel(first.positions, first.heights, first.geometry),
        "probe": _plain(core.probe.modes()),
        "obj": _thin(_plain(core.object.transmission())),
        "background": _plain(background),
        "weights": _plain(core.detector.weights),
        "oversampling": options.oversampling,
        "translation_scale": core.scan.step,
        "wavelength": own.geometry.wavelength * ANGSTROM,
        "positions": np.array(own.positions),
        "heights": np.zeros(0) if own.heights is None else np.array(own.heights),
        "depth_of_focus": 0.0 if heights is None else heights.unit,
        "options": json.dumps(asdict(options)),
        "geometry": json.dumps(asdict(own.geometry)),
        "canvas": json.dumps(asdict(core.object.canvas)),
        "frozen": json.dumps([name for name, some in parts(core).items() if not some[0].requires_grad]),
    }


def grid(model: Saved, /) -> np.ndarray:
    """Steps ``(3, 2)`` of the object's rows and columns, metres."""
    lab, step = model.scan.geometry, model.core.scan.canvas.pixel
    basis = surface.steps(lab.basis, step, lab.normal) if lab.tilted else np.asarray(lab.basis) * step
    return basis * ANGSTROM


@torch.no_grad()
def refined(model: Saved, /) -> np.ndarray:
    """Translations of the beam as they are now, metres ``(n, 3)``."""
    heights = model.scan.heights if model.core.heights is None else model.core.heights.angstrom()
    return travel(model.core.scan.angstrom(), heights, model.scan.geometry)


def rebuilt(found: Results, /) -> tuple[Ptychography, Options, Scan4D]:
    """The model of results, with a scan that knows everything but its patterns, which are all ones.

    Raises:
        BadInput: results that are not ours, or of a probe that is not free.
    """
    missing = [name for name in ("state_dict", "options", "geometry", "positions") if name not in found]
    if missing:
        raise BadInput("results", None, f"lack {', '.join(missing)}: they are not of this package")
    options = Options(**json.loads(found["options"]))
    shaped: dict[str, Any] = json.loads(found["geometry"])
    if not options.free_probe:
        raise BadInput(
            "results", None, "are of a probe from optics: use from_dataset and core.load_state_dict"
        )
    shaped.update({name: tuple(shaped[name]) for name in ("shape", "angle")})
    shaped["basis"] = tuple(map(tuple, shaped["basis"]))
    geometry = Geometry(**shaped)
    positions, heights = np.asarray(found["positions"]), np.asarray(found["heights"])
    counts = np.broadcast_to(np.float32(1), (len(positions), *geometry.shape))
    scan = Scan4D(
        counts=counts, positions=positions, geometry=geometry, heights=heights if heights.size else None
    )
    core, options = experiment(scan, options)
    if "canvas" in found:
        place = json.loads(found["canvas"])
        laid(core, scan, Canvas(**{name: value and tuple(value) for name, value in place.items()}))
    if core.heights is not None:
        core.heights.unit = float(found["depth_of_focus"])
    core.load_state_dict({name: torch.as_tensor(value) for name, value in found["state_dict"].items()})
    if "translation_scale" not in found:  # once offsets were pixels, whatever the scale
        core.scan.offsets.data.div_(core.scan.step)
    for name in json.loads(found.get("frozen", "[]")):
        for parameter in parts(core)[name]:
            parameter.requires_grad_(False)
    return core, options, scan


def laid(core: Ptychography, scan: Scan4D, canvas: Canvas, /) -> None:
    """Give a model an empty object of another size in another place; positions stay where they are."""
    old = core.object
    if canvas == old.canvas:
        return
    states, slices = old.transmission().shape[:2]
    empty = torch.ones(states, slices, *canvas.shape, dtype=torch.complex64)
    core.object = type(old)(empty, old.kind, old.gaps, canvas, old.occupancy)  # type: ignore[arg-type]
    step, core.scan = core.scan.step, Positions.of(scan, canvas)
    core.scan.step = step


def text(value: Any, /) -> str:
    """Text of a file, however it was stored."""
    value = value[()] if isinstance(value, np.ndarray) else value
    return value.decode() if isinstance(value, bytes) else str(value)


def write(path: str | os.PathLike[str], found: Results, /) -> None:
    """An HDF5 file, whole or not at all."""
    with whole(Path(path)) as short, h5py.File(short, "w") as file:
        file.attrs["phaseloom_cdtools"] = 1
        _put(file, found)


def read(path: str | os.PathLike[str], /) -> Results:
    """What `write` wrote."""
    with opened(Path(path)) as file:
        return _taken(file)


def _put(group: h5py.Group, found: Results) -> None:
    for name, value in found.items():
        if isinstance(value, dict):
            _put(group.create_group(name), value)
        else:
            group[name] = value


def _taken(group: Any) -> Results:
    out: Results = {}
    for name, item in group.items():
        if isinstance(item, h5py.Group):
            out[name] = _taken(item)
        elif h5py.check_string_dtype(item.dtype):
            out[name] = item.asstr()[()]
        else:
            out[name] = item[()]
    return out


def _thin(wave: np.ndarray) -> np.ndarray:
    """An object without the axes of states and of slices where it has one of either."""
    return wave.squeeze(tuple(axis for axis in (0, 1) if wave.shape[axis] == 1))


def _plain(value: torch.Tensor) -> np.ndarray:
    """A copy: what is saved must not move on with the model."""
    return np.array(value.detach().cpu().resolve_conj().resolve_neg().numpy())
