"""From a model of some patterns to one of more of them, or of the same in another order."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from phaseloom.data.scan import Scan4D
from phaseloom.ptycho.canvas import Canvas, canvas, lay_window
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.reconstruction.level import Level

__all__ = ["carry_model", "carry_optimizer", "enlarge_canvas", "share_parts"]

EXTRA_ROOM = 0.5
"""Share of the field that a canvas which is too small is enlarged by, beyond what is needed."""


def enlarge_canvas(room: Canvas, scan: Scan4D, /) -> Canvas:
    """The canvas, larger by whole pixels on the sides where windows of a scan do not lie on it.

    It stays as it is where it is large enough. Where nobody has announced how far a scan goes, half of the
    field is added beyond what is needed, so that the object is not moved with every pattern.
    """
    needed = canvas(scan)
    low = []
    high = []
    grids = zip(room.origin, room.shape, needed.origin, needed.shape, room.pixel, strict=True)
    for origin, size, first, count, pixel in grids:
        before = round((origin - first) / pixel)
        after = round((first - origin) / pixel) + count - size
        extra = int(EXTRA_ROOM * count)
        low.append(before + extra if before > 0 else 0)
        high.append(after + extra if after > 0 else 0)
    if not any((*low, *high)):
        return room
    shape = tuple(n + a + b for n, a, b in zip(room.shape, low, high, strict=True))
    origin = tuple(o - a * p for o, a, p in zip(room.origin, low, room.pixel, strict=True))
    return replace(room, shape=(shape[0], shape[1]), origin=(origin[0], origin[1]))


@torch.no_grad()
def carry_model(source: Ptychography, target: Ptychography, order: Int[np.ndarray, " n"], /) -> None:
    """Give a model what another one has found of the same object by fewer patterns.

    Parameters with a value for each pattern go with their patterns; those of new patterns stay as they began.
    Common maps of the positions keep their scale and rotation. The object may lie on another canvas.

    Args:
        source: of the first patterns that came.
        target: of these and others.
        order: ``(n,)`` for each pattern of the target its place in the order of arrival.
    """
    if source.object is not target.object:
        _carry_object(source, target)
    if source.probe is not target.probe:
        _carry_values(source.probe, target.probe, order)
    rooms = [(source.propagator, target.propagator), (source.heights, target.heights)]
    for theirs, ours in rooms:
        if theirs is not None and ours is not None:
            found = dict(theirs.named_parameters())
            for name, parameter in ours.named_parameters():
                _carry_rows(found[name], parameter, order)
    there = target.detector
    _carry_rows(source.detector.weights, there.weights, order)
    if there.root.shape == source.detector.root.shape:
        there.root.copy_(source.detector.root * source.detector.scale / there.scale)
    _carry_rows(source.scan.offsets, target.scan.offsets, order)
    reach = [(one.scan.start - one.scan.start.mean(0)).abs().max() for one in (source, target)]
    ratio = float(reach[1] / reach[0]) if float(reach[0]) > 0 else 1.0
    for name in ("affine", "turn", "stretch"):  # each is the shift of the farthest position
        getattr(target.scan, name).copy_(ratio * getattr(source.scan, name))


def share_parts(source: Ptychography, target: Ptychography, /) -> None:
    """Give a model the object and the probe of another: the same tensors, on the same canvas."""
    if source.object.canvas == target.object.canvas:
        target.object = source.object
    if not isinstance(source.probe, RelaxedProbe):  # which has numbers for each pattern
        target.probe = source.probe


def carry_optimizer(source: Level, target: Level, /) -> None:
    """Give an optimiser the momentum of another for tensors that both move, and how far it has braked."""
    ours = target.progress.optimizer
    theirs = source.progress.optimizer
    known = {group["name"]: group for group in theirs.param_groups}
    for group in ours.param_groups:
        before = known.get(group["name"])
        if before is None:
            continue
        if "brake" in before:
            group["brake"] = before["brake"]
        for parameter in group["params"]:
            if any(parameter is other for other in before["params"]) and parameter in theirs.state:
                ours.state[parameter] = theirs.state[parameter]


def _carry_object(source: Ptychography, target: Ptychography) -> None:
    """The object on another canvas: moved by whole pixels, or interpolated where it lies between them."""
    room = source.object.canvas
    wave = source.object.transmission()
    at = [o + (n // 2) * p for o, n, p in zip(room.origin, room.shape, room.pixel, strict=True)]
    found = lay_window(target.object.transmission(), wave, target.object.canvas, at=at, pixel=room.pixel)
    target.object.set_transmission(found)


def _carry_values(source: torch.nn.Module, target: torch.nn.Module, order: np.ndarray) -> None:
    """Parameters and the buffers that they are relative to."""
    theirs = dict([*source.named_parameters(), *source.named_buffers()])
    for name, values in [*target.named_parameters(), *target.named_buffers()]:
        if name in theirs:
            _carry_rows(theirs[name], values, order)


def _carry_rows(source: Tensor, target: Tensor, order: np.ndarray) -> None:
    """All of a parameter, or the rows of the patterns that both have."""
    if source.shape == target.shape and (not source.ndim or len(source) != len(order)):
        target.copy_(source)
    elif source.ndim and source.shape[1:] == target.shape[1:] and len(target) == len(order):
        here = np.flatnonzero(order < len(source))
        rows = torch.as_tensor(here, device=target.device)
        target[rows] = source[torch.as_tensor(order[here], device=source.device)]
