"""From CDTools' arguments to the parts of our model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from phaseloom.compat.cdtools.likelihood import DIVERGENCES
from phaseloom.compat.cdtools.validate import number, whole
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.ptycho import detectors, objects, probes, scans
from phaseloom.ptycho.illumination import Illumination, Probe, Support
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.opr import RelaxedProbe
from phaseloom.runs.memory import available

__all__ = ["Options", "affordable", "arranged", "experiment", "refuse"]

NOT_BUILT: Mapping[str, tuple[Any, ...]] = {
    "probe_shape": (None,),
    "propagator_fourier_crop": (None,),
    "replicate_slice": (False,),
}
"""Arguments without a part yet, each with the values that ask for nothing."""

WHOLE = {"n_modes": 1, "n_obj_modes": 1, "nz": 1, "oversampling": 1, "obj_padding": 0}
WHOLE |= {"probe_fourier_crop": 0, "dm_rank": -1, "obj_view_crop": -math.inf}
"""Whole numbers, and the least of each."""

TINY = 1e-30
NUMBERS = {"probe_support_radius": TINY, "translation_scale": TINY, "saturation": TINY}
NUMBERS |= {"propagation_distance": -math.inf, "randomize_ang": 0.0}
"""Other numbers, and the least of each."""

UNITS = ("m", "cm", "mm", "um", "µm", "$\\mu$m", "nm", "a", "pm")
"""Lengths that CDTools knows, in small letters."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a model was made with, beside its data: with the geometry, enough to make its like.

    Attributes:
        free_probe: whether the probe has free pixels; others are known to who made them alone.
        The others are the arguments of the same names.
    """

    n_modes: int = 1
    n_obj_modes: int = 1
    dm_rank: int | None = None
    nz: int = 1
    dz: float = 0.0
    oversampling: int = 1
    probe_support_radius: float | None = None
    probe_fourier_crop: int | None = None
    fourier_probe: bool = False
    propagation_distance: float | None = None
    translation_scale: float = 1.0
    saturation: float | None = None
    loss: str = "amplitude mse"
    units: str = "um"
    randomize_ang: float = 0.0
    use_qe_mask: bool = False
    allow_probe_fourier_shifts: bool = False
    simulate_probe_translation: bool = False
    simulate_finite_pixels: bool = False
    near_field: bool = False
    phase_only: bool = False
    exponentiate_obj: bool = False
    obj_padding: int | None = None
    obj_view_crop: int | None = None
    axial: bool | None = None
    ewald: Literal["flat", "lens", "none"] | None = None
    refine_heights: bool = False
    free_probe: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.loss not in DIVERGENCES:
            raise BadInput("from_dataset: loss", self.loss, nearest(self.loss, DIVERGENCES))
        if str(self.units).lower() not in UNITS:
            raise BadInput("from_dataset: units", self.units, nearest(self.units, UNITS))
        for name, low in WHOLE.items():
            if (value := getattr(self, name)) is not None:
                whole(name, value, low, "from_dataset")
        for name, least in NUMBERS.items():
            if (value := getattr(self, name)) is not None:
                number(f"from_dataset: {name}", value, least)
        if self.dm_rank is not None and self.dm_rank > self.n_modes:
            fix = f"must lie between 0 and n_modes, {self.n_modes}, or be -1 for as many"
            raise BadInput("from_dataset: dm_rank", self.dm_rank, fix)

    @property
    def rank(self) -> int:
        """Modes of each pattern, mixed from those in common; 0: all patterns have the same."""
        return self.n_modes if self.dm_rank == -1 else self.dm_rank or 0


def refuse(**given: Any) -> None:
    """Stop where something is asked for that has no part yet.

    Raises:
        BadInput: naming it.

    Example:
        >>> refuse(replicate_slice=True)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: from_dataset: replicate_slice: True is not built yet: leave it out
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
    if options.n_modes > math.prod(scan.window.shape):
        fix = f"are more than the window has pixels, {math.prod(scan.window.shape)}: take fewer"
        raise BadInput("from_dataset: n_modes", options.n_modes, fix)
    light = probe if isinstance(probe, Illumination) else _light(scan, options, probe)
    options = replace(options, n_modes=len(light.modes()), free_probe=isinstance(light, Probe))
    affordable("obj_padding", np.add(scan.window.shape, 2 * (options.obj_padding or 0)), options)
    room = scans.canvas(scan, border=options.obj_padding)
    affordable("nz", np.array(room.shape), options)
    if 2 * (options.obj_view_crop or 0) >= min(room.shape):
        fix = f"leaves nothing of an object of {room.shape} pixels: make it smaller"
        raise BadInput("from_dataset: obj_view_crop", options.obj_view_crop, fix)
    parts = {"object": _object(room, options), "probe": light}
    sums = "blocks" if options.oversampling > 1 else "area"
    finite = options.simulate_finite_pixels
    knobs: dict[str, Any] = {"area": finite, "collect": sums, "ewald": options.ewald}
    counting = detectors.counting(scan, saturation=options.saturation, **knobs)
    core = Ptychography.of(scan, **parts, detector=counting, axial=options.axial)
    core.scan.step = float(options.translation_scale)
    if scan.background is None:
        core.detector.begin(0.0)
    if options.allow_probe_fourier_shifts:
        core.propagator.descan.requires_grad_(True)
    if options.refine_heights and core.heights is not None:
        core.heights.offsets.requires_grad_(True)
    return core, options


def affordable(name: str, shape: np.ndarray, options: Options, /) -> None:
    """Refuse arrays that could never be kept: of each, two in double precision and four in single.

    Args:
        name: of the option that makes them so large.
        shape: their rows and columns.
        options: see there.

    Raises:
        BadInput: naming the option, and the memory that there is.
    """
    waves = options.n_modes * options.n_obj_modes * options.nz
    need, there = 64.0 * waves * float(np.prod(shape.astype(float))), available()
    if there is not None and need > there:
        size = f"of {getattr(options, name)} makes arrays of {waves} x {shape[0]} x {shape[1]} numbers, which"
        fix = f"need {need / 2**30:.3g} GiB of memory, but {there / 2**30:.3g} are free: make it smaller"
        raise BadInput(f"from_dataset: {name}", None, f"{size} {fix}")


def arranged(scan: Scan4D, options: Options, /) -> Scan4D:
    """The scan with the field, the flat field and the grid that the options ask for."""
    geometry, away = scan.geometry, options.propagation_distance
    affordable("oversampling", np.multiply(geometry.shape, options.oversampling), options)
    if options.near_field or geometry.near:
        focus = geometry.focus if geometry.near else math.inf
        geometry = replace(geometry, focus=focus if away is None else away * 1e10)
    scan = replace(scan, geometry=geometry, flat=scan.flat if options.use_qe_mask else None)
    for name in ("allow_probe_fourier_shifts", "simulate_probe_translation"):
        if getattr(options, name) and geometry.near:
            raise BadInput(f"from_dataset: {name}", True, "has no meaning in a near field: leave it out")
    if options.simulate_probe_translation:
        scan = replace(scan, descan=_carried(scan) * options.oversampling)
    if options.oversampling == 1:
        return scan
    rows, columns = (n * int(options.oversampling) for n in geometry.shape)
    return prepare.enlarge(scan, to=(rows, columns), match="resample")


def _carried(scan: Scan4D) -> np.ndarray:
    """Shifts of the patterns, detector pixels, behind a beam that moves across a detector at rest."""
    size = scan.geometry.detector_pixel
    if size is None:
        fix = "needs the distance of the detector"
        raise BadInput("from_dataset: simulate_probe_translation", True, fix)
    known = 0.0 if scan.descan is None else scan.descan
    return known + (scan.positions - scan.positions.mean(0)) / np.array(size)


def _light(scan: Scan4D, options: Options, given: Any) -> Probe:
    """A probe of free pixels, within its support; with mixtures for each pattern if wanted."""
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
    support = _support(scan.window.shape, options)
    if not options.rank:
        return Probe(modes, scan.window, support=support)
    mixture = torch.eye(options.rank, len(modes), dtype=modes.dtype).repeat(len(scan), 1, 1)
    return RelaxedProbe(modes, scan.window, mixture, support=support)


def _support(shape: tuple[int, int], options: Options) -> Support | None:
    """Where the probe may have light."""
    radius, crop = options.probe_support_radius, options.probe_fourier_crop or 0
    if radius is None and not crop and not options.fourier_probe:
        return None
    if 2 * crop >= min(shape):
        fix = f"leaves nothing of {min(shape)} waves: make it smaller"
        raise BadInput("from_dataset: probe_fourier_crop", crop, fix)
    band = (shape[0] - 2 * crop, shape[1] - 2 * crop)
    disk = None if radius is None else (float(radius), float(radius))
    return Support(shape, radius=disk, band=band, spectrum=options.fourier_probe)


def _object(room: scans.Canvas, options: Options) -> objects.PixelObject:
    """A flat object, of the kind that the flags describe, with random phases if wanted."""
    kind = "phase" if options.phase_only else "amplitude and phase" if options.exponentiate_obj else "complex"
    slices, modes = options.nz, options.n_obj_modes
    thing = objects.pixels(room, kind=kind, slices=slices, thickness=options.dz * 1e10, modes=modes)
    if options.randomize_ang:
        drawn = torch.rand(room.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        phase = (options.randomize_ang * drawn).expand(modes, slices, -1, -1) / slices
        thing.put(torch.polar(torch.ones_like(phase), phase) * thing.transmission().detach())
    return thing
