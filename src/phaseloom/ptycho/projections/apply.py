"""Bringing a projection to the parts of a model that its signature names."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.illumination import AberratedProbe
from phaseloom.ptycho.model import Ptychography, change_whole, is_in_tiles
from phaseloom.ptycho.objects import BandlimitedObject
from phaseloom.ptycho.projections import Setting

__all__ = ["bind_projection", "describe_setting"]

CHANGEABLE_PARTS = ("probe", "object", "amplitude", "phase", "offsets", "tilts")
"""What a projection may change."""

OBJECT_PARTS = {"object", "amplitude", "phase"}


def describe_setting(model: Ptychography, scan: Scan4D, /) -> Setting:
    """What projections need to know of an experiment."""
    geometry = scan.window
    with torch.no_grad():
        power = float(model.probe.modes().abs().square().sum())
    gaps = tuple(model.object.gaps)
    return Setting(geometry.pixel, geometry.wavelength, gaps, scan.grid, power)


def bind_projection(
    function: Callable[..., Any], model: Ptychography, where: Setting, /, name: str
) -> Callable[[], None]:
    """A projection as something to do, without arguments, on the parts that its signature names.

    Raises:
        BadInput: it needs parts that this model does not have.
    """
    parameters = inspect.signature(function).parameters.values()
    asked = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if strange := [one for one in asked if one not in (*CHANGEABLE_PARTS, "setting")]:
        fix = f"is not a part of a model: use {', '.join(CHANGEABLE_PARTS)}"
        raise BadInput(f"projections: {name}", strange[0], fix)
    if {"amplitude", "phase"} & set(asked):
        _require_separate_phase(model, name)
    if isinstance(model.probe, AberratedProbe) and "probe" in asked:
        raise BadInput(
            "projections", name, "changes the probe, but an aberrated one follows from optics: leave it out"
        )
    changed = [one for one in asked if one != "setting"]

    @torch.no_grad()
    def compute(model: Ptychography) -> tuple[Tensor, ...]:
        now = replace(where, thickness=tuple(model.propagator.distances().tolist()))
        parts = {one: read_part(model, one) for one in changed}
        shapes = {one: part.shape for one, part in parts.items()}
        out = function(*(now if one == "setting" else parts[one] for one in asked))
        new = out if isinstance(out, tuple) else (out,)
        _require_shapes(new, shapes, name)
        return new

    def apply_to(model: Ptychography) -> None:
        for one, new in zip(changed, compute(model), strict=True):
            write_part(model, one, new)

    compute(model)  # a wrong knob is refused now, not after the first epoch
    if is_in_tiles(model) and OBJECT_PARTS & set(changed):  # filters need neighbours, others the whole
        return lambda: change_whole(model, apply_to)
    return lambda: apply_to(model)


def _require_shapes(new: tuple[Any, ...], wanted: dict[str, torch.Size], name: str) -> None:
    """Refuse what a projection returned if it cannot take the place of the parts that it was given."""
    shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in new]
    if shapes != [tuple(shape) for shape in wanted.values()]:
        parts = ", ".join(f"{part} {tuple(shape)}" for part, shape in wanted.items())
        found = ", ".join(map(str, shapes))
        fix = f"returns {found}: return what it was given, changed: {parts}"
        raise BadInput("projections", name, fix)


def _require_separate_phase(model: Ptychography, name: str) -> None:
    """Refuse a projection of amplitude or phase where the object has none of its own on the canvas."""
    if model.object.kind == "complex":
        fix = "acts on amplitude or phase alone: write object: {pixels: {kind: amplitude and phase}}"
        raise BadInput("projections", name, fix)
    if isinstance(model.object, BandlimitedObject):
        fix = "acts on pixels of the canvas, and a band-limited object has its own: use object: pixels"
        raise BadInput("projections", name, fix)


def read_part(model: Ptychography, name: str, /) -> Tensor:
    """A part of a model as projections see it."""
    read: dict[str, Callable[[], Tensor]] = {
        "probe": model.probe.modes,
        "object": model.object.transmission,
        "amplitude": lambda: model.object.transmission().abs(),
        "phase": lambda: model.object.phase,
        "offsets": lambda: model.scan.offsets,
        "tilts": model.propagator.tilts,
    }
    return read[name]().detach().clone()


@torch.no_grad()
def write_part(model: Ptychography, name: str, new: Tensor, /) -> None:
    """Give a part of a model a new value; the amplitude of a pure phase object stays one."""
    if name == "probe":
        model.probe.set_modes(new)
    elif name == "object":
        model.object.set_transmission(new)
    elif name == "tilts":
        model.propagator.tilt.copy_(1e3 * new)
    elif name == "offsets":
        model.scan.offsets.copy_(new)
    elif name != "amplitude" or model.object.kind != "phase":
        getattr(model.object, name).copy_(new)
