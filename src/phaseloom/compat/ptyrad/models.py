"""PtyRAD's model over ours: arrays by PtyRAD's names, and the module that they make."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.physics.filters import blur
from phaseloom.physics.fourier import frequencies
from phaseloom.physics.propagate import angular_spectrum, tilt_ramp
from phaseloom.ptycho import detectors
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.propagators import FreeFlight
from phaseloom.ptycho.scans import Canvas, Positions

__all__ = ["CoreOf", "PtychoAD", "get_init_variables", "get_scan"]

ANGSTROM = ("Ang", "A", "angstrom")
"""Names of the only unit of length."""

TAPS_OF_PREBLUR = 5
"""Pixels of the kernel by which ``obj_preblur_std`` blurs windows, as in PtyRAD's tutorial."""

KERNEL_TOLERANCE = 1e-4
"""Largest difference between two propagators that are the same but for rounding."""

LAST_ITERATION = 10_000
"""``end_iter`` of a part that does not say one, as in PtyRAD's tutorial."""


class EqualGapFlight(FreeFlight):
    """Multislice whose parameter ``stretch`` is the distance between slices itself, in angstrom."""

    def __init__(self, scan: Scan4D, count: int, distance: float, kernel: Any, tilt: Float[Tensor, "#n 2"]):
        super().__init__(scan, (distance,) * count, kernel, tilt)
        self.stretch = nn.Parameter(torch.tensor(distance, dtype=torch.float32), requires_grad=False)

    def distances(self) -> Float[Tensor, " gap"]:
        """Distances between slices as they are now, angstrom."""
        return self.stretch.expand(len(self.gaps))


class PtychoAD(nn.Module):
    """The experiment as a module with PtyRAD's names; patterns come out as they are looked at.

    All that ``init_variables`` says is modelled, or refused. Its tensors are those of ``core``: what moves
    one moves the other. Grids and propagators are there to be read: to model others, build another model.

    Args:
        init_variables: arrays by PtyRAD's names, see `get_init_variables`; lengths in angstrom. ``H`` is the
            propagator over a slice without tilt, ``None``: that of free space over ``slice_thickness``.
        model_params: ``update_params``, ``optimizer_params``, ``detector_blur_std`` (detector pixels) and
            ``obj_preblur_std`` (object pixels).
        device: where to compute; a CPU where it has no GPU.
        verbose: kept for PtyRAD's sake.

    Attributes:
        core: the `phaseloom.ptycho.model.Ptychography` that does the work.
        scan: the measured patterns and their geometry.
        opt_obja, opt_objp: amplitude and phase ``(mode, slice, y, x)``.
        opt_probe: ``(mode, y, x, 2)``, real and imaginary part of the modes.
        opt_probe_pos_shifts: ``(n, 2)`` pixels from ``crop_pos``, the window's top-left corner.
        opt_obj_tilts: ``(1 or n, 2)`` milliradian (y, x).
        opt_slice_thickness: distance between slices, angstrom.
        lr_params, start_iter, end_iter: of each part, as ``update_params`` has them.
        optimizable_params: groups for an optimiser of PyTorch.
        loss_iters, iter_times, dz_iters, avg_tilt_iters: what `recon_loop` has recorded: number of the
            iteration and loss, its seconds, number and thickness, number and mean tilt.

    Raises:
        BadInput: an unknown variable, or variables that contradict each other.
    """

    lambd: Tensor
    dx: Tensor
    dk: Tensor
    slice_thickness: Tensor
    N_scan_slow: Tensor
    N_scan_fast: Tensor
    crop_pos: Tensor
    measurements: Tensor
    omode_occu: Tensor
    probe_int_sum: Tensor
    H: Tensor
    H_fixed_tilts_full: Tensor
    Kz: Tensor
    propagator_grid: Tensor
    shift_probes_grid: Tensor
    rpy_grid: Tensor
    rpx_grid: Tensor

    def __init__(
        self,
        init_variables: Mapping[str, Any],
        model_params: Mapping[str, Any],
        device: Any = "cuda",
        verbose: bool = True,
    ):
        super().__init__()
        given = _check_variables(init_variables)
        self.device = "cpu" if "cuda" in str(device) and not torch.cuda.is_available() else device or "cpu"
        self.verbose = verbose
        self.detector_blur_std = model_params.get("detector_blur_std") or 0.0
        self.obj_preblur_std = model_params.get("obj_preblur_std") or 0.0
        self.optimizer_params = model_params.get("optimizer_params") or {"name": "Adam", "configs": {}}
        self._read_update_params(model_params.get("update_params") or {})
        self.scan = _build_scan(given)
        self.core = _build_core(given, self.scan, self.detector_blur_std).to(self.device)
        self.core.requires_grad_(False)
        if self.lr_params["slice_thickness"] and _find_own_kernel(given, self.scan) is not None:
            fix = (
                "is a propagator of its own, which cannot follow a thickness that is refined: set it to None"
            )
            raise BadInput("init_variables.H", None, f"{fix}, or slice_thickness.lr to 0")
        self.loss_iters: list[tuple[int, float]] = []
        self.iter_times: list[float] = []
        self.dz_iters: list[tuple[int, float]] = []
        self.avg_tilt_iters: list[tuple[int, np.ndarray]] = []
        self._current_object_patches: Tensor | None = None
        self._name_variables(given)
        self._create_grids()
        self._init_propagator_vars()
        self._setup_optimizer_params()
        self._init_compilation_iters()

    def _read_update_params(self, given: Mapping[str, Any]) -> None:
        """Rates and times of the parts."""
        for name in given:
            if name not in PARTS:
                raise BadInput("model_params.update_params", f"there is no '{name}';", nearest(name, PARTS))
        parts = {name: given.get(name) or {} for name in PARTS}
        self.start_iter = {name: part.get("start_iter", 1) for name, part in parts.items()}
        self.end_iter = {name: part.get("end_iter", LAST_ITERATION) for name, part in parts.items()}
        self.lr_params = {name: part.get("lr") or 0.0 for name, part in parts.items()}

    def _name_variables(self, given: Mapping[str, Any]) -> None:
        """PtyRAD's names of parameters, constants and switches."""
        core = self.core
        self.opt_obja = core.object.amplitude
        self.opt_objp = core.object.phase
        self.opt_probe_pos_shifts = core.scan.offsets
        self.opt_obj_tilts = core.propagator.tilt
        self.opt_slice_thickness = core.propagator.stretch
        (probe,) = core.parts()["probe"]
        self.opt_probe = torch.view_as_real(probe.detach())
        tensors = (self.opt_obja, self.opt_objp, self.opt_obj_tilts, self.opt_slice_thickness)
        self.optimizable_tensors: dict[str, Tensor] = dict(
            zip(PARTS, (*tensors, probe, self.opt_probe_pos_shifts), strict=True)
        )
        self.random_seed = given.get("random_seed")
        self.scan_affine = given.get("scan_affine")
        self.length_unit = given.get("length_unit", "Ang")
        constants = {name: given[name] for name in ("lambd", "dx", "slice_thickness")}
        constants["dk"] = 1 / (core.propagator.shape[0] * float(given["dx"]))
        for name, value in constants.items():
            self._keep(name, torch.tensor(float(np.ravel(value)[0])))
        for name in ("N_scan_slow", "N_scan_fast"):
            self._keep(name, torch.tensor(int(given[name]), dtype=torch.int32))
        self._keep("crop_pos", torch.as_tensor(np.asarray(given["crop_pos"]), dtype=torch.int32))
        self._keep("measurements", torch.as_tensor(np.asarray(given["measurements"], np.float32)))
        self._keep("omode_occu", core.object.occupancy)
        self._keep("probe_int_sum", core.probe.modes().abs().square().sum())
        frame = given.get("on_the_fly_meas_padded")
        self.meas_padded = None if frame is None else torch.as_tensor(np.asarray(frame, np.float32))
        self.meas_padded_idx = None if frame is None else torch.tensor(given["on_the_fly_meas_padded_idx"])
        self.meas_scale_factors = given.get("on_the_fly_meas_scale_factors")
        self.tilt_obj = bool(self.lr_params["obj_tilts"] or self.opt_obj_tilts.any())
        self.shift_probes = bool(self.lr_params["probe_pos_shifts"] or self.opt_probe_pos_shifts.any())
        self.change_thickness = bool(self.lr_params["slice_thickness"])

    def _keep(self, name: str, value: Tensor) -> None:
        """A constant that moves to a device with the model."""
        self.register_buffer(name, value.to(self.device), persistent=False)

    def _create_grids(self) -> None:
        """Angular frequencies (rad/angstrom), cycles per pixel, and pixels of a window, each of (y, x)."""
        flight = self.core.propagator
        places = torch.meshgrid(*(torch.arange(n, dtype=torch.int32) for n in flight.shape), indexing="ij")
        cycles = torch.stack(torch.broadcast_tensors(*frequencies(flight.shape, like=self.opt_objp)))
        pixel = cycles.new_tensor(flight.pixel)[:, None, None]
        self._keep("rpy_grid", places[0])
        self._keep("rpx_grid", places[1])
        self._keep("shift_probes_grid", cycles)
        self._keep("propagator_grid", 2 * torch.pi * cycles / pixel)

    @torch.no_grad()
    def _init_propagator_vars(self) -> None:
        """Propagators over a slice as they are now: ``H`` without, ``H_fixed_tilts_full`` with tilts."""
        flight = self.core.propagator
        distance = self.opt_slice_thickness.detach()
        plain = flight.kernel(flight.shape, flight.pixel, flight.wavelength, distance)
        lean = tilt_ramp(flight.shape, flight.pixel, distance, flight.tilts())
        self._keep("H", plain.to(torch.complex64))
        self._keep("H_fixed_tilts_full", (plain * lean).to(torch.complex64))
        self.k = 2 * torch.pi / flight.wavelength
        inside = self.k**2 - self.propagator_grid.square().sum(0)
        self._keep("Kz", inside.clamp(min=0).sqrt())

    def _setup_optimizer_params(self) -> None:
        """Groups for an optimiser of PyTorch; what moves from the first iteration on wants a gradient."""
        for name, tensor in self.optimizable_tensors.items():
            start = self.start_iter[name]
            tensor.requires_grad_(self.lr_params[name] != 0 and start is not None and start <= 1)
        self.optimizable_params = [
            {"params": [self.optimizable_tensors[name]], "lr": rate}
            for name, rate in self.lr_params.items()
            if rate != 0
        ]

    def _init_compilation_iters(self) -> None:
        """Iterations before which parts begin or cease to move, and the first one."""
        times = (*self.start_iter.values(), *self.end_iter.values())
        self.compilation_iters = sorted({1} | {time for time in times if time is not None and time >= 1})

    def get_complex_probe_view(self) -> Complex[Tensor, "mode y x"]:
        """The modes."""
        return self.core.probe.modes()

    def get_obj_patches(self, indices: Any) -> Float[Tensor, "b mode slice y x 2"]:
        """Windows of amplitude and phase, blurred by ``obj_preblur_std``."""
        corner, _ = self.core.scan(self._index(indices))
        windows = torch.stack(self.core.object.cut_amplitude_phase(corner), dim=-1)
        if not self.obj_preblur_std:
            return windows
        return blur(windows, (-3, -2), std=self.obj_preblur_std, taps=TAPS_OF_PREBLUR)

    def get_probes(self, indices: Any) -> Complex[Tensor, "b mode y x"]:
        """Modes moved to each position's part of a pixel."""
        _, rest = self.core.scan(self._index(indices))
        return self.core.probe(rest)

    def get_propagators(self, indices: Any) -> Complex[Tensor, "#b y x"]:
        """Kernels of the flight over a slice, zero frequency in the corner: one, or one for each index."""
        flights = self.core.propagator.gap_kernels(self._index(indices))
        if not flights:
            return torch.ones_like(self.H)[None]
        return flights[0].reshape(-1, *flights[0].shape[-2:])

    def get_measurements(self, indices: Any = None) -> Float[Tensor, "b y x"]:
        """Measured patterns, all or those of an index, padded and scaled on the fly as the model is."""
        kept = self.measurements
        counts = kept if indices is None else kept[self._index(indices).to(kept.device)]
        return _prepare_counts(
            counts.to(self.core.scan.start.device),
            self.meas_padded,
            self.meas_padded_idx,
            self.meas_scale_factors,
        )

    def clear_cache(self) -> None:
        """Forget the windows of the last batch."""
        self._current_object_patches = None

    def forward(self, indices: Any) -> Float[Tensor, "b y x"]:
        """Expected patterns, zero frequency in the middle."""
        core = self.core
        index = self._index(indices)
        windows = self.get_obj_patches(index)
        self._current_object_patches = windows
        if not self.obj_preblur_std:
            return core.detector.display(core(index))
        amplitude, phase = windows.unbind(-1)
        place, rest = core.scan(index)
        waves = core.detector_wave(torch.polar(amplitude, phase), place, rest, index)
        return core.detector.display(core.detector(waves, index, core.object.occupancy))

    def _index(self, indices: Any) -> Int[Tensor, " b"]:
        return torch.as_tensor(indices, dtype=torch.long, device=self.core.scan.start.device)


PARTS: tuple[str, ...] = ("obja", "objp", "obj_tilts", "slice_thickness", "probe", "probe_pos_shifts")
"""What can be refined, by PtyRAD's names."""


class CoreOf:
    """The experiment of a module with PtyRAD's names, as projections and results want it.

    That of a `PtychoAD` is its own. Of another module it is a copy of its tensors, which `read` brings up to
    date and `write` brings back.

    Attributes:
        core: the experiment.
        scan: the measured patterns and their geometry.

    Raises:
        BadInput: a module that lacks one of the names.
    """

    def __init__(self, model: Any):
        self.model = model
        if isinstance(model, PtychoAD):
            self.core = model.core
            self.scan = model.scan
            return
        given = _read_variables(model)
        self.scan = _build_scan(given)
        blurred = getattr(model, "detector_blur_std", None) or 0.0
        self.core = _build_core(given, self.scan, blurred).to(given["obj"].device)
        self.core.requires_grad_(False)

    def read(self) -> None:
        """Bring the experiment up to date."""
        for ours, theirs in self._pairs():
            ours.copy_(theirs)

    def write(self) -> None:
        """Bring the experiment's tensors back to the model."""
        for ours, theirs in self._pairs():
            theirs.copy_(ours)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Tensors of the experiment, and the model's where these are others."""
        if isinstance(self.model, PtychoAD):
            return []
        core = self.core
        (probe,) = core.parts()["probe"]
        object_and_tilts = (core.object.amplitude, core.object.phase, core.propagator.tilt)
        ours = (*object_and_tilts, core.propagator.stretch, probe, core.scan.offsets)
        theirs = [getattr(self.model, f"opt_{name}").detach() for name in PARTS]
        theirs[PARTS.index("probe")] = torch.view_as_complex(theirs[PARTS.index("probe")])
        return [(one.detach(), other) for one, other in zip(ours, theirs, strict=True)]


def _read_variables(model: Any) -> dict[str, Any]:
    """The variables of a module with PtyRAD's names, as it is now."""
    names = ("lambd", "dx", "N_scan_slow", "N_scan_fast", "crop_pos", "omode_occu", "measurements")
    padding = ("meas_padded", "meas_padded_idx", "meas_scale_factors")
    try:
        with torch.no_grad():
            given = {name: getattr(model, name).cpu() for name in names}
            given |= {f"on_the_fly_{name}": getattr(model, name, None) for name in padding}
            given["obj"] = torch.polar(model.opt_obja, model.opt_objp)
            given["probe"] = model.get_complex_probe_view().detach()
            given["obj_tilts"] = model.opt_obj_tilts.detach().cpu()
            given["probe_pos_shifts"] = model.opt_probe_pos_shifts.detach().cpu()
            given["slice_thickness"] = float(model.opt_slice_thickness)
    except AttributeError as problem:
        fix = f"lacks one of PtyRAD's names ({problem.name}): give it one, as phaseloom's PtychoAD has it"
        raise BadInput("model", type(model).__name__, fix) from problem
    return given


def get_scan(core: Ptychography, /) -> Scan4D:
    """A scan of the model's own geometry without counts, for what projections ask."""
    flight = core.propagator
    scan = core.scan
    geometry = _make_geometry(flight.wavelength, flight.shape, flight.pixel)
    empty = np.broadcast_to(np.float32(0), (len(scan.start), *flight.shape))
    return Scan4D(counts=empty, positions=scan.angstrom(), geometry=geometry, grid=scan.grid)


def get_init_variables(core: Ptychography, scan: Scan4D, init: Mapping[str, Any], /) -> dict[str, Any]:
    """First guesses as arrays, by PtyRAD's names.

    Any of them may be changed before a model is made of them. ``H_thickness`` is the thickness that ``H`` was
    computed for: while ``H`` is that one, a model computes its own for ``slice_thickness``.
    """
    window = scan.window
    grid = scan.grid or (len(scan), 1)
    distances = core.propagator.distances()
    thickness = float(distances[0]) if len(distances) else float(init["obj_slice_thickness"])
    with torch.no_grad():
        corner, rest = core.scan(torch.arange(len(scan)))
        return {
            "random_seed": init.get("random_seed"),
            "probe_illum_type": init.get("probe_illum_type", "electron"),
            "length_unit": "Ang",
            "lambd": window.wavelength,
            "dx": window.pixel[0],
            "dk": window.angle[0] / window.wavelength,
            "meas_Npix": scan.geometry.shape[0],
            "simu_Npix": window.shape[0],
            "simu_match_mode": init.get("simu_match_mode"),
            "N_scan_slow": grid[0],
            "N_scan_fast": grid[1],
            "N_scans": len(scan),
            "scan_affine": init.get("pos_scan_affine"),
            "slice_thickness": thickness,
            "measurements": np.asarray(scan.counts[np.arange(len(scan))], np.float32),
            "obj": core.object.transmission().numpy(),
            "omode_occu": core.object.occupancy.numpy(),
            "probe": core.probe.modes().numpy(),
            "crop_pos": corner.numpy().astype(np.int32),
            "probe_pos_shifts": rest.numpy(),
            "obj_tilts": core.propagator.tilt.numpy(),
            "H": _free_space(window, thickness),
            "H_thickness": thickness,
            "on_the_fly_meas_padded": None,
            "on_the_fly_meas_padded_idx": None,
            "on_the_fly_meas_scale_factors": None,
        }


VARIABLES = (
    *("random_seed", "probe_illum_type", "length_unit", "lambd", "dx", "dk", "meas_Npix", "simu_Npix"),
    *("simu_match_mode", "N_scan_slow", "N_scan_fast", "N_scans", "scan_affine", "slice_thickness"),
    *("measurements", "obj", "omode_occu", "probe", "crop_pos", "probe_pos_shifts", "obj_tilts", "H"),
    *("H_thickness", "on_the_fly_meas_padded", "on_the_fly_meas_padded_idx", "on_the_fly_meas_scale_factors"),
)
"""Names that ``init_variables`` may have."""

REQUIRED_VARIABLES = (
    *("lambd", "dx", "N_scan_slow", "N_scan_fast", "slice_thickness", "measurements", "obj", "omode_occu"),
    *("probe", "crop_pos", "probe_pos_shifts", "obj_tilts"),
)


def _check_variables(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The variables, none of them unknown, missing, or in contradiction to another."""
    for name in given:
        if name not in VARIABLES:
            raise BadInput("init_variables", f"there is no '{name}';", nearest(name, VARIABLES))
    for name in REQUIRED_VARIABLES:
        if given.get(name) is None:
            raise BadInput(f"init_variables.{name}", None, "is missing: load_and_preprocess_data makes it")
    unit = given.get("length_unit", "Ang")
    if unit not in ANGSTROM:
        raise BadInput("init_variables.length_unit", unit, "is not supported: give lengths in Ang")
    _check_shapes(given)
    _check_derived(given, len(given["measurements"]), np.shape(given["probe"])[-2])
    if np.shape(given["obj"])[1] == 1 and np.any(given["obj_tilts"]):
        fix = "are not felt by an object of one slice: set them to 0"
        raise BadInput("init_variables.obj_tilts", None, fix)
    return given


def _check_shapes(given: Mapping[str, Any]) -> None:
    """Refuse arrays that do not fit."""
    count = len(given["measurements"])
    for name, axes in {"obj": "mode, slice, y, x", "probe": "mode, y, x"}.items():
        if np.ndim(given[name]) != len(axes.split(",")):
            raise BadInput(f"init_variables.{name}", np.shape(given[name]), f"is not the shape of ({axes})")
    pairs = {"crop_pos": {count}, "probe_pos_shifts": {count}, "obj_tilts": {1, count}}
    for name, counts in pairs.items():
        if np.shape(given[name]) not in {(number, 2) for number in counts}:
            fix = f"must have the shape {' or '.join(f'({number}, 2)' for number in sorted(counts))}"
            raise BadInput(f"init_variables.{name}", np.shape(given[name]), fix)


def _check_derived(given: Mapping[str, Any], count: int, size: int) -> None:
    """Refuse numbers that follow from others and do not agree with them."""
    derived = {
        "N_scans": (count, "measurements"),
        "meas_Npix": (np.shape(given["measurements"])[-2], "measurements"),
        "simu_Npix": (size, "probe"),
        "dk": (1 / (size * float(given["dx"])), "dx and probe"),
    }
    for name, (expected, source) in derived.items():
        if given.get(name) is not None and not math.isclose(given[name], expected, rel_tol=1e-3):
            fix = f"contradicts {source}, from which {expected:.6g} follows: change both"
            raise BadInput(f"init_variables.{name}", given[name], fix)


def _build_core(given: Mapping[str, Any], scan: Scan4D, detector_blur: float) -> Ptychography:
    """The experiment of a set of arrays."""
    wave = torch.as_tensor(given["obj"]).to(torch.complex64)
    modes = torch.as_tensor(given["probe"]).to(torch.complex64)
    window = scan.window
    canvas = Canvas((wave.shape[-2], wave.shape[-1]), window.shape, window.pixel, (0.0, 0.0))
    thickness = float(np.ravel(given["slice_thickness"])[0])
    gaps = (thickness,) * (wave.shape[1] - 1)
    tilts = torch.as_tensor(np.asarray(given["obj_tilts"], np.float64)) * 1e-3
    kernel = _find_own_kernel(given, scan) or angular_spectrum
    occupancy = torch.as_tensor(np.asarray(given["omode_occu"], np.float32))
    collect = "bilinear" if given.get("simu_match_mode") == "resample" else "area"
    core = Ptychography(
        object=PixelObject(wave, "amplitude and phase", gaps, canvas, occupancy),
        probe=Probe(modes, window, relative=False),
        scan=Positions.of(scan, canvas),
        propagator=EqualGapFlight(scan, len(gaps), thickness, kernel, tilts),
        detector=detectors.counting(scan, blur=detector_blur, collect=collect),
    )
    with torch.no_grad():
        middle = torch.as_tensor(np.asarray(given["crop_pos"]) + np.array(window.shape) // 2)
        core.scan.start.copy_(middle)
        core.scan.offsets.copy_(torch.as_tensor(np.asarray(given["probe_pos_shifts"])))
    return core


def _free_space(window: Geometry, thickness: float) -> np.ndarray:
    """The propagator of free space, complex64 ``(y, x)``."""
    distance = torch.tensor(thickness, dtype=torch.float64)
    kernel = angular_spectrum(window.shape, window.pixel, window.wavelength, distance)
    return kernel.to(torch.complex64).numpy()


def _find_own_kernel(given: Mapping[str, Any], scan: Scan4D) -> Any:
    """The propagator ``H`` as a function, where it is not that of free space; else ``None``."""
    own = given.get("H")
    if own is None:
        return None
    own = np.asarray(own, np.complex64)
    if own.shape != scan.window.shape:
        fix = f"must have the shape of the probe, {scan.window.shape}"
        raise BadInput("init_variables.H", own.shape, fix)
    thickness = given.get("H_thickness", given["slice_thickness"])
    expected = _free_space(scan.window, float(np.ravel(thickness)[0]))
    if np.abs(own - expected).max() < KERNEL_TOLERANCE:
        return None
    if np.shape(given["obj"])[1] == 1:
        raise BadInput("init_variables.H", None, "is not used by an object of one slice: set it to None")
    return partial(_return_kernel, torch.from_numpy(own))


def _return_kernel(kernel: Tensor, shape: Any, pixel: Any, wavelength: float, distance: Tensor) -> Tensor:
    """A propagator that was given, in place of one that is computed."""
    return kernel.to(distance.device)


def _build_scan(given: Mapping[str, Any]) -> Scan4D:
    """Measured patterns where PtyRAD's numbers put them; padding and resampling on the fly included."""
    names = ("meas_padded", "meas_padded_idx", "meas_scale_factors")
    frame, place, scale = (given.get(f"on_the_fly_{name}") for name in names)
    measured = torch.as_tensor(np.asarray(given["measurements"], np.float32))
    counts = _prepare_counts(
        measured, None if frame is None else torch.as_tensor(frame), place, scale
    ).numpy()
    pixel = float(given["dx"])
    window = (np.shape(given["probe"])[-2], np.shape(given["probe"])[-1])
    beam = "photon" if given.get("probe_illum_type") == "xray" else "electron"
    modelled = replace(_make_geometry(float(given["lambd"]), window, (pixel, pixel)), beam=beam)
    size = (counts.shape[1], counts.shape[2])
    angle = modelled.angle
    if given.get("simu_match_mode") == "resample":
        angle = (angle[0] * window[0] / size[0], angle[1] * window[1] / size[1])
    corner = np.asarray(given["crop_pos"], float) + np.asarray(given["probe_pos_shifts"], float)
    grid = (int(given["N_scan_slow"]), int(given["N_scan_fast"]))
    scan = Scan4D(
        counts=counts,
        positions=(corner + np.array(window) // 2) * pixel,
        geometry=replace(modelled, shape=size, angle=angle),
        grid=grid if math.prod(grid) == len(counts) else None,
    )
    return scan if size == window else replace(scan, modelled=modelled)


def _make_geometry(wavelength: float, shape: tuple[int, int], pixel: tuple[float, float]) -> Geometry:
    angle = (wavelength / (shape[0] * pixel[0]), wavelength / (shape[1] * pixel[1]))
    return Geometry(wavelength=wavelength, shape=shape, angle=angle, beam="electron")


def _prepare_counts(counts: Tensor, frame: Tensor | None, place: Any, scale: Any) -> Tensor:
    """Patterns in the middle of a larger frame, then interpolated, their sums kept."""
    if frame is not None:
        top, bottom, left, right = (int(edge) for edge in place)
        larger = frame.to(counts).reshape(1, *frame.shape[-2:]).repeat(len(counts), 1, 1)
        larger[:, top:bottom, left:right] = counts
        counts = larger
    if scale is not None and any(factor != 1 for factor in scale):
        factors = tuple(float(factor) for factor in scale)
        resampled = nn.functional.interpolate(counts[None], scale_factor=factors, mode="bilinear")
        counts = resampled[0] / math.prod(factors)
    return counts
