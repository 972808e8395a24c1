"""From CDTools' arguments to the parts of our model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from phaseloom.compat._cdtools_fit import DIVERGENCES
from phaseloom.data import prepare
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.ptycho import detectors, objects, probes, scans
from phaseloom.ptycho.illumination import Illumination, Probe
from phaseloom.ptycho.model import Ptychography

__all__ = ["Options", "SupportedProbe", "experiment", "refuse"]

NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "n_obj_modes": (1,),
    "dm_rank": (None, 0),
    "probe_fourier_crop": (None,),
    "fourier_probe": (False,),
    "scattering_mode": (None, "t", "transmission"),
    "simulate_probe_translation": (False,),
    "simulate_finite_pixels": (False,),
    "obj_view_crop": (None,),
    "regularization_factor": (None,),
}
"""Arguments without a part yet, each with the values that ask for nothing."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a model was made with, beside its data: with the geometry, enough to make its like.

    Attributes:
        free_probe: whether the probe has free pixels; others are known to who made them alone.
        The others are the arguments of the same names.
    """

    n_modes: int = 1
    oversampling: int = 1
    probe_support_radius: float | None = None
    propagation_distance: float | None = None
    translation_scale: float = 1.0
    saturation: float | None = None
    loss: str = "amplitude mse"
    units: str = "um"
    randomize_ang: float = 0.0
    use_qe_mask: bool = False
    allow_probe_fourier_shifts: bool = False
    near_field: bool = False
    phase_only: bool = False
    exponentiate_obj: bool = False
    obj_padding: int | None = None
    axial: bool | None = None
    refine_heights: bool = False
    free_probe: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.loss not in DIVERGENCES:
            raise BadInput("from_dataset: loss", self.loss, nearest(self.loss, DIVERGENCES))
        for name, least in {"n_modes": 1, "oversampling": 1, "obj_padding": 0}.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | np.integer) and value >= least):
                raise BadInput(f"from_dataset: {name}", value, f"must be a whole number from {least} up")
        for name in ("probe_support_radius", "translation_scale", "saturation"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"from_dataset: {name}", value, "must be a number above zero")
        if self.allow_probe_fourier_shifts and self.near_field:
            raise BadInput(
                "from_dataset: allow_probe_fourier_shifts", True, "is not built yet for a near field"
            )


class SupportedProbe(Probe):
    """Modes of free pixels that are dark outside of a disk, at every step.

    Attributes:
        support: ``(y, x)``, one within the radius.
    """

    support: Tensor

    def __init__(self, modes: Complex[Tensor, "mode y x"], geometry: Geometry, radius: float):
        y, x = (torch.arange(n) - n // 2 for n in geometry.shape)
        support = (y[:, None].square() + x[None].square() < radius**2).to(modes.real.dtype)
        super().__init__(modes * support, geometry)
        self.register_buffer("support", support)

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The modes in square roots of counts."""
        return super().modes() * self.support


def refuse(**given: Any) -> None:
    """Stop where something is asked for that has no part yet.

    Raises:
        BadInput: naming it.

    Example:
        >>> refuse(dm_rank=2)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: from_dataset: dm_rank: 2 is not built yet: leave it out
    """
    for name, value in given.items():
        if not any(value is plain or value == plain for plain in NOT_BUILT[name]):
            raise BadInput(f"from_dataset: {name}", value, "is not built yet: leave it out")


def experiment(scan: Scan4D, options: Options, probe: Any = None, /) -> tuple[Ptychography, Options]:
    """A model of a scan, and its options with what the probe says of them.

    Args:
        scan: the data.
        options: see there.
        probe: ``None``: from the patterns; complex ``(y, x)`` or ``(mode, y, x)`` in square roots of counts;
            or an illumination of ours.
    """
    scan = arranged(scan, options)
    light = probe if isinstance(probe, Illumination) else _light(scan, options, probe)
    options = replace(options, n_modes=len(light.modes()), free_probe=isinstance(light, Probe))
    room = scans.canvas(scan, border=options.obj_padding)
    parts = {"object": _object(room, options), "probe": light}
    counting = detectors.counting(scan, saturation=options.saturation)
    core = Ptychography.of(scan, **parts, detector=counting, axial=options.axial)
    if scan.background is None:
        core.detector.begin(0.0)
    if options.allow_probe_fourier_shifts:
        core.propagator.descan.requires_grad_(True)
    if options.refine_heights and core.heights is not None:
        core.heights.offsets.requires_grad_(True)
    return core, options


def arranged(scan: Scan4D, options: Options, /) -> Scan4D:
    """The scan with the field, the flat field and the grid that the options ask for."""
    geometry, away = scan.geometry, options.propagation_distance
    if options.near_field or geometry.near:
        focus = geometry.focus if geometry.near else math.inf
        geometry = replace(geometry, focus=focus if away is None else away * 1e10)
    scan = replace(scan, geometry=geometry, flat=scan.flat if options.use_qe_mask else None)
    if options.oversampling == 1:
        return scan
    rows, columns = (n * int(options.oversampling) for n in geometry.shape)
    return prepare.enlarge(scan, to=(rows, columns), match="resample")


def _light(scan: Scan4D, options: Options, given: Any) -> Probe:
    """A probe of free pixels, within its support."""
    away = options.propagation_distance
    if given is None:
        # CDTools lets the focused guess fly on by this much: the focus lies before the object
        defocus = 0.0 if scan.geometry.near or away is None else -away * 1e10
        modes = probes.from_patterns(scan, defocus=defocus, modes=options.n_modes).modes().detach()
    else:
        modes = torch.as_tensor(np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given))
        modes = modes.reshape(-1, *modes.shape[-2:]).to(torch.complex64)
        if modes.shape[1:] != scan.window.shape:
            raise BadInput("from_dataset: probe", tuple(modes.shape), f"must have pixels {scan.window.shape}")
    radius = options.probe_support_radius
    if radius is None:
        return Probe(modes, scan.window)
    light = SupportedProbe(modes, scan.window, radius)
    if not bool(light.modes().any()):
        raise BadInput(
            "from_dataset: probe_support_radius", radius, "leaves the probe no light: make it larger"
        )
    return light


def _object(room: scans.Canvas, options: Options) -> objects.PixelObject:
    """A flat object, of the kind that the flags describe, with random phases if wanted."""
    kind = "phase" if options.phase_only else "amplitude and phase" if options.exponentiate_obj else "complex"
    thing = objects.pixels(room, kind=kind)
    if options.randomize_ang:
        drawn = torch.rand(room.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        phase = (options.randomize_ang * drawn)[None, None]
        thing.put(torch.polar(torch.ones_like(phase), phase))
    return thing
