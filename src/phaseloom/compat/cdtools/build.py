"""From CDTools' arguments to the parts of our model."""

import math
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch

from phaseloom.compat.cdtools.arguments import ARGUMENTS, check_arguments
from phaseloom.compat.cdtools.datasets.base import to_array, to_table
from phaseloom.compat.cdtools.objectives import DIVERGENCES
from phaseloom.data import prepare
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.ptycho import detectors, objects, probes, scans
from phaseloom.ptycho.illumination import Illumination, Probe, Support
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe
from phaseloom.runs.memory import available

__all__ = ["Options", "build_model", "check_memory", "prepare_scan", "tilt_sample"]

NOT_SUPPORTED: Mapping[str, Any] = {
    "probe_shape": None,
    "propagator_fourier_crop": None,
    "replicate_slice": False,
}
"""Arguments without a counterpart, each with the value that asks for nothing."""

UNITS = ("m", "cm", "mm", "um", "µm", "$\\mu$m", "nm", "a", "pm")
"""Lengths that CDTools knows, in small letters."""

NAMES = "n_modes n_obj_modes dm_rank nz dz oversampling probe_support_radius probe_fourier_crop fourier_probe"
NAMES += " propagation_distance translation_scale saturation loss units randomize_ang use_qe_mask"
NAMES += " allow_probe_fourier_shifts simulate_probe_translation simulate_finite_pixels near_field phase_only"
NAMES += " exponentiate_obj obj_padding obj_view_crop"
DEFAULTS = {name: ARGUMENTS[name].default for name in NAMES.split()} | {"nz": 1, "dz": 0.0}
DEFAULTS |= {"axial": None, "ewald": None, "refine_heights": False, "free_probe": True}
"""Options of a model: arguments of the table, and how depth and tilt are modelled."""


class Options(SimpleNamespace):
    """What a model was made with, beside its data: with the geometry, enough to make its like.

    Attributes:
        axial: whether positions along the beam count; ``None``: where they matter.
        ewald: ``flat``, ``lens`` or ``none``: how pixels of a tilted sample's pattern are placed.
        refine_heights: whether positions along the beam are free.
        free_probe: whether the probe has free pixels; others can only be made again by who made them.
        The others are the arguments of the same names; those that are not options are left out.

    Example:
        >>> Options(loss="Poisson_NLL", plot_level=2).loss
        'poisson nll'
    """

    def __init__(self, **given: Any):
        super().__init__(**DEFAULTS | {name: value for name, value in given.items() if name in DEFAULTS})
        for name, default in NOT_SUPPORTED.items():
            if given.get(name, default) != default:
                raise BadInput(f"from_dataset: {name}", given[name], "is not supported: leave it out")
        self.loss = str(self.loss).lower().strip().replace("_", " ")
        if self.loss not in DIVERGENCES:
            raise BadInput("from_dataset: loss", self.loss, nearest(self.loss, DIVERGENCES))
        if str(self.units).lower() not in UNITS:
            raise BadInput("from_dataset: units", self.units, nearest(self.units, UNITS))
        check_arguments("from_dataset", vars(self))
        if self.dm_rank is not None and self.dm_rank > self.n_modes:
            fix = f"must lie between 0 and n_modes, {self.n_modes}, or be -1 for as many"
            raise BadInput("from_dataset: dm_rank", self.dm_rank, fix)

    def replace(self, **changes: Any) -> "Options":
        """The same with changes."""
        return Options(**vars(self) | changes)

    @property
    def rank(self) -> int:
        """Modes of each pattern, mixed from those in common; 0: all patterns have the same."""
        return self.n_modes if self.dm_rank == -1 else self.dm_rank or 0

    @property
    def kind(self) -> Literal["complex", "amplitude and phase", "phase"]:
        """What the numbers of the object are."""
        return "phase" if self.phase_only else "amplitude and phase" if self.exponentiate_obj else "complex"


def build_model(scan: Scan4D, options: Options, probe: Any = None, /) -> tuple[Ptychography, Options]:
    """A model of a scan, and its options with what the probe says of them.

    ``probe`` is complex ``(y, x)`` or ``(mode, y, x)`` in square roots of counts, or an illumination of ours;
    default: from the patterns.
    """
    scan = prepare_scan(scan, options)
    if options.n_modes > math.prod(scan.window.shape):
        fix = f"are more than the window has pixels, {math.prod(scan.window.shape)}: take fewer"
        raise BadInput("from_dataset: n_modes", options.n_modes, fix)
    light = probe if isinstance(probe, Illumination) else _light(scan, options, probe)
    options = options.replace(n_modes=len(light.modes()), free_probe=isinstance(light, Probe))
    check_memory("obj_padding", np.add(scan.window.shape, 2 * (options.obj_padding or 0)), options)
    room = scans.canvas(scan, border=options.obj_padding)
    check_memory("nz", np.array(room.shape), options)
    if 2 * (options.obj_view_crop or 0) >= min(room.shape):
        fix = f"leaves nothing of an object of {room.shape} pixels: make it smaller"
        raise BadInput("from_dataset: obj_view_crop", options.obj_view_crop, fix)
    counting = detectors.counting(
        scan,
        saturation=options.saturation,
        area=options.simulate_finite_pixels,
        collect="blocks" if options.oversampling > 1 else "area",
        ewald=options.ewald,
    )
    core = Ptychography.of(
        scan, object=_object(room, options), probe=light, detector=counting, axial=options.axial
    )
    core.scan.step = float(options.translation_scale)
    if scan.background is None:
        core.detector.start_background(0.0)
    if options.allow_probe_fourier_shifts:
        core.propagator.descan.requires_grad_(True)
    if options.refine_heights and core.heights is not None:
        core.heights.offsets.requires_grad_(True)
    return core, options


def check_memory(name: str, shape: np.ndarray, options: Options, /) -> None:
    """Refuse arrays that could never be kept: of each, two in double precision and four in single.

    ``name`` is that of the option that makes them so large, ``shape`` their rows and columns.
    """
    waves = options.n_modes * options.n_obj_modes * options.nz
    need = 64.0 * waves * float(np.prod(shape.astype(float)))
    free = available()
    if free is not None and need > free:
        size = f"of {getattr(options, name)} makes arrays of {waves} x {shape[0]} x {shape[1]} numbers, which"
        fix = f"need {need / 2**30:.3g} GiB of memory, but {free / 2**30:.3g} are free: make it smaller"
        raise BadInput(f"from_dataset: {name}", None, f"{size} {fix}")


def prepare_scan(scan: Scan4D, options: Options, /) -> Scan4D:
    """The scan with the field, the flat field and the grid that the options ask for."""
    geometry = scan.geometry
    distance = options.propagation_distance
    check_memory("oversampling", np.multiply(geometry.shape, options.oversampling), options)
    if options.near_field or geometry.near:
        focus = geometry.focus if geometry.near else math.inf
        geometry = replace(geometry, focus=focus if distance is None else distance * 1e10)
    scan = replace(scan, geometry=geometry, flat=scan.flat if options.use_qe_mask else None)
    for name in ("allow_probe_fourier_shifts", "simulate_probe_translation"):
        if getattr(options, name) and geometry.near:
            raise BadInput(f"from_dataset: {name}", True, "has no meaning in a near field: leave it out")
    if options.simulate_probe_translation:
        scan = replace(scan, descan=_descan_of_moving_beam(scan) * options.oversampling)
    if options.oversampling == 1:
        return scan
    rows, columns = (n * int(options.oversampling) for n in geometry.shape)
    return prepare.enlarge(scan, to=(rows, columns), match="resample")


def _descan_of_moving_beam(scan: Scan4D) -> np.ndarray:
    """Shifts of the patterns, detector pixels, behind a beam that moves across a detector at rest."""
    size = scan.geometry.detector_pixel
    if size is None:
        fix = "needs the distance of the detector"
        raise BadInput("from_dataset: simulate_probe_translation", True, fix)
    known = 0.0 if scan.descan is None else scan.descan
    return known + (scan.positions - scan.positions.mean(0)) / np.array(size)


def _light(scan: Scan4D, options: Options, given: Any) -> Probe:
    """A probe of free pixels, within its support; with mixtures for each pattern if wanted."""
    distance = options.propagation_distance
    if given is None:
        # CDTools propagates the focused guess by this much: the focus lies before the object
        defocus = 0.0 if scan.geometry.near or distance is None else -distance * 1e10
        modes = probes.from_patterns(scan, defocus=defocus, modes=options.n_modes).modes().detach()
    else:
        modes = torch.as_tensor(to_array(given))
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
    radius = options.probe_support_radius
    crop = options.probe_fourier_crop or 0
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
    slices = options.nz
    modes = options.n_obj_modes
    flat = objects.pixels(room, kind=options.kind, slices=slices, thickness=options.dz * 1e10, modes=modes)
    if options.randomize_ang:
        random = torch.rand(room.shape, generator=torch.Generator().manual_seed(0)) - 0.5
        phase = (options.randomize_ang * random).expand(modes, slices, -1, -1) / slices
        flat.set_transmission(torch.polar(torch.ones_like(phase), phase) * flat.transmission().detach())
    return flat


def tilt_sample(scan: Scan4D, scattering_mode: str | None = None, surface_normal: Any = None, /) -> Scan4D:
    """The scan of a sample that lies as asked; a normal comes before a mode, and that before the file.

    ``t`` is across the beam, ``r`` as a mirror that reflects it into the detector.

    Example:
        >>> from phaseloom.data.scan import Geometry
        >>> geometry = Geometry(wavelength=1.0, shape=(4, 4), angle=(1e-5, 1e-5))
        >>> scan = Scan4D(counts=np.ones((1, 4, 4)), positions=np.zeros((1, 2)), geometry=geometry)
        >>> tilt_sample(scan, "t", [0.0, -0.6, -0.8]).geometry.normal
        (0.0, 0.6, 0.8)
    """
    if surface_normal is not None:
        vector = to_table("from_dataset: surface_normal", surface_normal).astype(float)
        if vector.shape != (3,):
            raise BadInput("from_dataset: surface_normal", surface_normal, "must be three numbers: x, y, z")
        return prepare.tilt_sample(scan, normal=tuple(vector.tolist()))
    if scattering_mode is None:
        return scan
    mode = str(scattering_mode).strip().lower()
    if mode in ("t", "transmission"):
        return prepare.tilt_sample(scan, scattering="transmission")
    if mode in ("r", "reflection"):
        return prepare.tilt_sample(scan, scattering="reflection")
    fix = "must be 't' (transmission), 'r' (reflection) or None"
    raise BadInput("from_dataset: scattering_mode", scattering_mode, fix)
