"""PtyRAD's objects over our core: what its tutorial builds, one after the other, with its names."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.compat.ptyrad.project import Project
from phaseloom.compat.ptyrad.schema import section
from phaseloom.compat.ptyrad.translate import translated
from phaseloom.compat.ptyrad.translate_fit import PENALTIES, knobs_of, projections
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting.schedule import Every
from phaseloom.physics.propagate import angular_spectrum
from phaseloom.ptycho import detectors, penalties
from phaseloom.ptycho.apply_projections import imposed, setting
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.object_models import PixelObject
from phaseloom.ptycho.propagators import FreeFlight
from phaseloom.ptycho.scans import Canvas, Positions
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import call

__all__ = ["CombinedConstraint", "CombinedLoss", "Initializer", "PtychoAD"]

log = logging.getLogger(__name__)

UPDATED: tuple[str, ...] = ("obja", "objp", "obj_tilts", "slice_thickness", "probe", "probe_pos_shifts")
"""Parts by PtyRAD's names."""


class Initializer:
    """Data and first guesses of a PtyRAD section ``init_params``.

    Attributes:
        scan: the data, read and prepared; after `init_all`.
        init_variables: arrays by PtyRAD's names, lengths in angstrom; after `init_all`.
    """

    def __init__(self, init_params: Mapping[str, Any], seed: int | None = None, folder: Path | str = "."):
        self.init_params, self.folder = dict(init_params), Path(folder)
        self.seed = self.init_params.get("random_seed") if seed is None else seed
        self.scan: Scan4D | None = None
        self.init_variables: dict[str, Any] = {}

    def init_all(self) -> "Initializer":
        """Read the data, prepare it, and make the first guesses."""
        tree, notes = translated({"init_params": self.init_params | {"random_seed": self.seed}}, self.folder)
        for note in notes:
            log.info("%s", note)
        recipe = Reconstruct.of(tree)
        self.scan = recipe.scan()
        self.init_variables = _variables(recipe.model(self.scan), self.scan, self.init_params, self.seed)
        return self


class PtychoAD(nn.Module):
    """The experiment as a module with PtyRAD's names; patterns come out as they are looked at.

    Attributes:
        core: the `phaseloom.ptycho.model.Ptychography` that does the work.
        opt_obja, opt_objp: amplitude and phase ``(mode, slice, y, x)``.
        opt_probe: ``(mode, y, x, 2)``, real and imaginary part of the modes.
        opt_probe_pos_shifts: ``(n, 2)`` pixels from ``crop_pos``, the window's top-left corner.
        opt_obj_tilts: ``(1 or n, 2)`` milliradian.
        lr_params, start_iter, end_iter: of each part, as ``update_params`` has them.
        optimizable_params: groups for an optimiser of PyTorch.
    """

    def __init__(
        self,
        init_variables: Mapping[str, Any],
        model_params: Mapping[str, Any],
        device: Any = "cuda",
        verbose: bool = True,
        core: Ptychography | None = None,
    ):
        super().__init__()
        self.device = "cpu" if "cuda" in str(device) and not torch.cuda.is_available() else device or "cpu"
        self.verbose = verbose
        self.detector_blur_std = model_params.get("detector_blur_std") or 0.0
        self.measurements = init_variables["measurements"]
        built = core if core is not None else _core(init_variables, self.detector_blur_std)
        self.core = _cornered(built).to(self.device)
        self.random_seed, self.scan_affine = (init_variables.get(k) for k in ("random_seed", "scan_affine"))
        self.loss_iters, self.iter_times, self.dz_iters, self.avg_tilt_iters = [], [], [], []
        self._current_object_patches: Tensor | None = None
        self._name_parts(model_params)

    def _name_parts(self, model_params: Mapping[str, Any]) -> None:
        """PtyRAD's names for the parameters, and which of them move."""
        core, given = self.core, model_params.get("update_params") or {}
        self.optimizer_params = model_params.get("optimizer_params") or {"name": "Adam", "configs": {}}
        self.opt_obja, self.opt_objp = core.object.amplitude, core.object.phase
        self.opt_probe = torch.view_as_real(core.probe.modes().detach())
        if isinstance(core.probe, Probe) and float(core.probe.scale) == 1:
            self.opt_probe = torch.view_as_real(core.probe.relative.detach())
        self.opt_probe_pos_shifts, self.opt_obj_tilts = core.scan.offsets, core.propagator.tilt
        moved = (core.object.amplitude, core.object.phase, core.propagator.tilt, core.propagator.stretch)
        probe = core.parts()["probe"][0]
        tensors = dict(zip(UPDATED, (*moved, probe, core.scan.offsets), strict=True))
        self.optimizable_tensors = tensors
        times = {name: given.get(name) or {} for name in UPDATED}
        self.start_iter = {name: part.get("start_iter", 1) for name, part in times.items()}
        self.end_iter = {name: part.get("end_iter") for name, part in times.items()}
        self.lr_params = {name: part.get("lr") or 0.0 for name, part in times.items()}
        for name, tensor in tensors.items():
            first = self.start_iter[name] is not None and self.start_iter[name] <= 1
            tensor.requires_grad_(self.lr_params[name] != 0 and first)
        self.optimizable_params = [
            {"params": [tensors[name]], "lr": rate} for name, rate in self.lr_params.items() if rate != 0
        ]

    @property
    def opt_slice_thickness(self) -> Tensor:
        """Distance between slices, angstrom; a single slice has none."""
        distances = self.core.propagator.distances()
        return distances[0] if len(distances) else torch.tensor(0.0)

    def get_complex_probe_view(self) -> Tensor:
        """The modes ``(mode, y, x)``."""
        return self.core.probe.modes()

    def get_obj_patches(self, indices: Any) -> Tensor:
        """Windows ``(b, mode, slice, y, x, 2)`` of amplitude and phase."""
        corner, _ = self.core.scan(self._index(indices))
        return torch.stack(self.core.object.cut(corner), dim=-1)

    def get_probes(self, indices: Any) -> Tensor:
        """Modes ``(b, mode, y, x)`` moved to each position's part of a pixel."""
        _, rest = self.core.scan(self._index(indices))
        return self.core.probe(rest)

    def get_propagators(self, indices: Any) -> Tensor:
        """Kernels ``(1 or b, y, x)`` of the flight over a slice, zero frequency in the corner."""
        flights = self.core.propagator.flights(self._index(indices))
        if not flights:
            return torch.ones(1, *self.core.propagator.shape, dtype=torch.complex64, device=self.device)
        return flights[0].reshape(-1, *flights[0].shape[-2:])

    def get_measurements(self, indices: Any = None) -> Tensor:
        """Measured patterns, all or those of an index."""
        chosen = (
            self.measurements
            if indices is None
            else self.measurements[np.asarray(self._index(indices).cpu())]
        )
        return torch.as_tensor(np.asarray(chosen), dtype=torch.float32, device=self.device)

    def clear_cache(self) -> None:
        """Forget the windows of the last batch."""
        self._current_object_patches = None

    def forward(self, indices: Any) -> Tensor:
        """Expected patterns ``(b, y, x)``, zero frequency in the middle."""
        self._current_object_patches = self.get_obj_patches(indices)
        return self.core.detector.display(self.core(self._index(indices)))

    def _index(self, indices: Any) -> Tensor:
        return torch.as_tensor(indices, dtype=torch.long, device=self.device)


class CombinedLoss:
    """PtyRAD's losses as one function: their sum, and each of them."""

    def __init__(self, loss_params: Mapping[str, Any], device: Any = "cuda"):
        self.loss_params, self.device = section("loss_params", loss_params, []), device

    def __call__(
        self, model_DP: Tensor, measured_DP: Tensor, object_patches: Tensor, omode_occu: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Sum and list, in the order single, poissn, pacbed, sparse, simlar; what is off is zero.

        ``object_patches`` is what `PtychoAD.get_obj_patches` gives.
        """
        amplitude, phase = object_patches[..., 0], object_patches[..., 1]
        shown = {
            "loss_sparse": (phase, omode_occu),
            "loss_simlar": (amplitude, phase, omode_occu),
        }
        losses = []
        for name, (ours, _) in PENALTIES.items():
            given = self.loss_params[name]
            knobs = knobs_of(name, given)
            term = getattr(penalties, ours)
            on = given["state"] and not (name == "loss_simlar" and amplitude.shape[1] == 1)
            seen = shown.get(name, (model_DP, measured_DP))
            losses.append(term(*seen, **knobs) if on else model_DP.new_zeros(()))
        return torch.stack(losses).sum(), losses


class CombinedConstraint:
    """PtyRAD's constraints as one function of a model and the number of the iteration."""

    def __init__(self, constraint_params: Mapping[str, Any], device: Any = "cuda", verbose: bool = True):
        self.constraint_params = section("constraint_params", constraint_params, [])
        self.device, self.verbose = device, verbose
        tree = {"constraint_params": self.constraint_params, "init_params": {"probe_illum_type": "electron"}}
        nodes = projections(Project(tree, Path()))
        self.calls = [call("phaseloom.ptycho.projections", node, "constraint_params") for node in nodes]
        self.events: dict[int, Sequence[Every]] = {}

    def __call__(self, model: PtychoAD, niter: int) -> None:
        """Change the model as its constraints ask for after an iteration."""
        for event in self._of(model):
            if event.due(niter):
                event.action()

    def _of(self, model: PtychoAD) -> Sequence[Every]:
        if id(model) not in self.events:
            where = setting(model.core, _placed(model))
            self.events = {
                id(model): [
                    Every(imposed(one.partial(), model.core, where, one.name), **dict(one.when))
                    for one in self.calls
                ]
            }
        return self.events[id(model)]


def _placed(model: PtychoAD) -> Scan4D:
    """A scan of the model's own geometry, for what projections ask."""
    flight, scan = model.core.propagator, model.core.scan
    angle = tuple(flight.wavelength / (n * p) for n, p in zip(flight.shape, flight.pixel, strict=True))
    geometry = Geometry(wavelength=flight.wavelength, shape=flight.shape, angle=angle, beam="electron")  # type: ignore[arg-type]
    empty = np.broadcast_to(np.float32(0), (len(scan.start), *flight.shape))
    return Scan4D(counts=empty, positions=scan.angstrom(), geometry=geometry, grid=scan.grid)


def _variables(core: Ptychography, scan: Scan4D, init: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
    """First guesses as arrays, by PtyRAD's names."""
    window, grid = scan.window, scan.grid or (len(scan), 1)
    distances = core.propagator.distances()
    thickness = float(distances[0]) if len(distances) else float(init["obj_slice_thickness"])
    flight = torch.tensor(thickness, dtype=torch.float64)
    with torch.no_grad():
        corner, rest = core.scan(torch.arange(len(scan)))
        kernel = angular_spectrum(window.shape, window.pixel, window.wavelength, flight)
        return {
            "random_seed": seed,
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
            "H": kernel.to(torch.complex64).numpy(),
            "on_the_fly_meas_padded": None,
            "on_the_fly_meas_padded_idx": None,
            "on_the_fly_meas_scale_factors": None,
        }


def _core(given: Mapping[str, Any], blur: float) -> Ptychography:
    """The experiment of a set of arrays."""
    wave, modes = torch.as_tensor(np.asarray(given["obj"])), torch.as_tensor(np.asarray(given["probe"]))
    scan = _scan(given, modes.shape[-2:])  # type: ignore[arg-type]
    geometry = scan.window
    room = Canvas(tuple(wave.shape[-2:]), geometry.shape, geometry.pixel, (0.0, 0.0))  # type: ignore[arg-type]
    gaps = (float(np.ravel(given["slice_thickness"])[0]),) * (wave.shape[1] - 1)
    tilts = torch.as_tensor(np.asarray(given["obj_tilts"], np.float64)) * 1e-3
    occupancy = torch.as_tensor(np.asarray(given["omode_occu"], np.float32))
    return Ptychography(
        object=PixelObject(wave.to(torch.complex64), "amplitude and phase", gaps, room, occupancy),
        probe=Probe(modes.to(torch.complex64), geometry, relative=False),
        scan=Positions.of(scan, room),
        propagator=FreeFlight(scan, gaps, angular_spectrum, tilts),
        detector=detectors.counting(
            scan, blur=blur, collect="bilinear" if given.get("simu_match_mode") == "resample" else "area"
        ),
    )


def _scan(given: Mapping[str, Any], window: tuple[int, int]) -> Scan4D:
    """Measured patterns where PtyRAD's numbers put them; padding and resampling on the fly included."""
    counts = _canvas(np.asarray(given["measurements"], np.float32), given)
    dx, wavelength, size = float(given["dx"]), float(given["lambd"]), counts.shape[1:]
    angle = tuple(wavelength / (n * dx) for n in window)
    model = Geometry(wavelength=wavelength, shape=window, angle=angle, beam="electron")  # type: ignore[arg-type]
    if given.get("simu_match_mode") == "resample":
        angle = tuple(a * n / m for a, n, m in zip(angle, window, size, strict=True))
    corner = np.asarray(given["crop_pos"], float) + np.asarray(given["probe_pos_shifts"], float)
    slow, fast = int(given["N_scan_slow"]), int(given["N_scan_fast"])
    scan = Scan4D(
        counts=counts,
        positions=(corner + np.array(window) // 2) * dx,
        geometry=replace(model, shape=size, angle=angle),  # type: ignore[arg-type]
        grid=(slow, fast) if slow * fast == len(counts) else None,
    )
    return scan if tuple(size) == tuple(window) else replace(scan, modelled=model)


def _canvas(counts: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    padded, zoom = given.get("on_the_fly_meas_padded"), given.get("on_the_fly_meas_scale_factors")
    if padded is not None:
        top, bottom, left, right = given["on_the_fly_meas_padded_idx"]
        whole = np.repeat(np.asarray(padded, np.float32).reshape(1, *np.shape(padded)[-2:]), len(counts), 0)
        whole[:, top:bottom, left:right] = counts
        counts = whole
    if zoom is not None and any(factor != 1 for factor in zoom):
        larger = nn.functional.interpolate(
            torch.from_numpy(counts)[None], scale_factor=tuple(zoom), mode="bilinear"
        )
        counts = (larger[0] / math.prod(zoom)).numpy()
    return counts


@torch.no_grad()
def _cornered(core: Ptychography) -> Ptychography:
    """The same positions, as whole pixels and the rest that PtyRAD refines."""
    place = core.scan.start + core.scan.offsets
    core.scan.start.copy_(place.round())
    core.scan.offsets.copy_(place - core.scan.start)
    return core
