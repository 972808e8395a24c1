"""Results that CDTools itself has saved (0.3): our model with the same patterns.

Where positions lie between pixels, CDTools moves the probe from the pixel below and we from the nearest one,
so that tails which leave the window come back in other places; `SimplePtycho` there rounds positions.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.build import Options, experiment
from phaseloom.compat.cdtools.datasets import Ptycho2DDataset
from phaseloom.compat.cdtools.likelihood import parts
from phaseloom.compat.cdtools.saved import laid, text
from phaseloom.compat.cdtools.tools.propagators import far_field, inverse_far_field
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.opr import RelaxedProbe
from phaseloom.ptycho.scans import Canvas

__all__ = ["rebuilt", "recognised"]

log = logging.getLogger(__name__)

State = Mapping[str, Any]
FLAGS = ("fourier_probe", "exponentiate_obj", "phase_only", "near_field")


def recognised(found: Mapping[str, Any], /) -> bool:
    """Whether results are those of CDTools."""
    return "cdtools_version" in found


def rebuilt(found: Mapping[str, Any], scan: Scan4D | None, /) -> tuple[Ptychography, Options, Scan4D]:
    """The model of results, with a scan that knows everything but its patterns, which are all ones.

    Args:
        found: what CDTools' ``save_results`` gave, or its ``save_to_h5`` wrote.
        scan: the data, for results that hold no translations.

    Raises:
        BadInput: results of a model that has no counterpart here, or without translations and no data.
    """
    state, name = found["state_dict"], text(found["model_class"])
    _refuse(state, name)
    scan = _scan(state, scan)
    modes = _modes(state, scan.geometry.shape)
    options = _options(found, state, len(modes))
    core, options = experiment(scan, options, modes)
    laid(core, scan, _canvas(state, core.object.canvas))
    with torch.no_grad():
        _fill(core, state, modes)
    if name == "SimplePtycho":
        for part in ("translation_offsets", "weights", "background"):
            parts(core)[part][0].requires_grad_(False)
    return core, options, scan


def _refuse(state: State, name: str) -> None:
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
    places, shape = np.asarray(state["original_translations"], float), np.shape(state["background"])
    detector = {"distance": float(state["det_distance"]), "basis": np.asarray(state["det_basis"], float)}
    made = Ptycho2DDataset(
        places,
        np.broadcast_to(np.float32(1), (len(places), *shape)),
        wavelength=float(state["wavelength"]),
        detector_geometry=detector,
        mask=state.get("mask"),
        qe_mask=state.get("qe_mask"),
    )
    return made.scan


def _options(found: Mapping[str, Any], state: State, modes: int) -> Options:
    flags: dict[str, Any] = {name: bool(state.get(name, False)) for name in FLAGS}
    flags["phase_only"] &= flags["exponentiate_obj"]  # else only the start of theirs had no modulus
    support = np.asarray(state.get("probe_support", True), bool)
    crop = _crop(state)
    radius = None if support.all() else float(np.sqrt(support.sum() / np.pi))
    if radius is not None and (crop or flags["fourier_probe"]):
        log.warning("results of CDTools: the support of the probe is not held in further fits")
        radius, crop, flags["fourier_probe"] = None, 0, False
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
        loss=text(found.get("loss_function", "amplitude mse")).replace("_", " "),
        nz=len(state["obj"]) if "interslice_propagator" in state else 1,
        dz=_gap(state) if "interslice_propagator" in state else 0.0,
        **flags,
    )


def _gap(state: State) -> float:
    """Metres between slices, from the phases that the flight between them gives to plane waves.

    Those of long waves are told without ambiguity, those of short ones more sharply.
    """
    flight = np.asarray(state["interslice_propagator"]).astype(complex)[:, 0]
    pixel, wave = np.linalg.norm(np.asarray(state["obj_basis"], float)[:, 0]), float(state["wavelength"])
    gap, step = 0.0, 1
    while step < len(flight) // 2:
        q = step / (len(flight) * pixel)
        slope = -2 * np.pi * q**2 / (np.sqrt(1 / wave**2 - q**2) + 1 / wave)
        phase = np.angle(flight[step] / flight[0])
        gap = (phase + 2 * np.pi * np.round((slope * gap - phase) / (2 * np.pi))) / slope
        step *= 2
    return float(gap)


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
    return None if abs(larger) < 1e-5 else float(state["det_distance"]) / larger


def _modes(state: State, shape: tuple[int, int]) -> Tensor:
    """The modes in square roots of counts on the whole window."""
    stored = torch.as_tensor(np.asarray(state["probe"])).to(torch.complex128)
    modes = stored.reshape(-1, *stored.shape[-2:]) * float(state["probe_norm"])
    modes = modes * torch.as_tensor(np.asarray(state.get("probe_support", True), bool))
    over = int(state.get("oversampling", 1))
    window = [over * n for n in shape]
    waves = modes if bool(state.get("fourier_probe", False)) else far_field(modes)
    edges = [(w - n) // 2 for w, n in zip(window, modes.shape[-2:], strict=True)]
    whole = waves.new_zeros(len(waves), *window)
    whole[:, edges[0] : edges[0] + waves.shape[1], edges[1] : edges[1] + waves.shape[2]] = waves
    return (inverse_far_field(whole) / over).to(torch.complex64)


def _canvas(state: State, like: Canvas) -> Canvas:
    """Theirs: the first pixel of a window lies at its translation in pixels, less the smallest one."""
    first = np.asarray(state["min_translation"], float) - np.array(like.window) // 2
    origin = first * np.array(like.pixel)
    rows, columns = np.shape(state["obj"])[-2:]
    return replace(like, shape=(int(rows), int(columns)), origin=(float(origin[0]), float(origin[1])))


def _fill(core: Ptychography, state: State, modes: Tensor) -> None:
    """Put the numbers of CDTools where they belong."""
    read = {name: torch.as_tensor(np.asarray(value)) for name, value in state.items()}
    support = getattr(core.probe, "support", None)
    if support is not None and support.disk is not None:
        support.disk.copy_(read["probe_support"])
        Probe.put(core.probe, modes)  # type: ignore[arg-type]
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
    sight = core.detector.sight
    if sight is None or over == 1:
        return
    for name, size in zip(("rows", "columns"), core.detector.mask.shape, strict=True):
        block = torch.eye(size).repeat_interleave(over, dim=1)
        setattr(sight, name, block if core.detector.near else torch.fft.ifftshift(block, dim=(0, 1)))
