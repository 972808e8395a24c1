"""PtyRAD's model over ours: arrays by PtyRAD's names, and the module that they make."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.physics.propagate import angular_spectrum
from phaseloom.ptycho import detectors
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.propagators import FreeFlight
from phaseloom.ptycho.scans import Canvas, Positions

__all__ = ["PtychoAD", "get_init_variables", "get_scan"]


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
        built = core if core is not None else _build_core(init_variables, self.detector_blur_std)
        self.core = _move_to_pixels(built).to(self.device)
        self.random_seed = init_variables.get("random_seed")
        self.scan_affine = init_variables.get("scan_affine")
        self.loss_iters = []
        self.iter_times = []
        self.dz_iters = []
        self.avg_tilt_iters = []
        self._current_object_patches: Tensor | None = None
        self._name_parts(model_params)

    def _name_parts(self, model_params: Mapping[str, Any]) -> None:
        """PtyRAD's names for the parameters, and which of them move."""
        core = self.core
        given = model_params.get("update_params") or {}
        self.optimizer_params = model_params.get("optimizer_params") or {"name": "Adam", "configs": {}}
        self.opt_obja = core.object.amplitude
        self.opt_objp = core.object.phase
        self.opt_probe = torch.view_as_real(core.probe.modes().detach())
        if isinstance(core.probe, Probe) and float(core.probe.scale) == 1:
            self.opt_probe = torch.view_as_real(core.probe.relative.detach())
        self.opt_probe_pos_shifts = core.scan.offsets
        self.opt_obj_tilts = core.propagator.tilt
        tensors = {
            "obja": core.object.amplitude,
            "objp": core.object.phase,
            "obj_tilts": core.propagator.tilt,
            "slice_thickness": core.propagator.stretch,
            "probe": core.parts()["probe"][0],
            "probe_pos_shifts": core.scan.offsets,
        }
        self.optimizable_tensors = tensors
        times = {name: given.get(name) or {} for name in tensors}
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
        return torch.stack(self.core.object.cut_amplitude_phase(corner), dim=-1)

    def get_probes(self, indices: Any) -> Tensor:
        """Modes ``(b, mode, y, x)`` moved to each position's part of a pixel."""
        _, rest = self.core.scan(self._index(indices))
        return self.core.probe(rest)

    def get_propagators(self, indices: Any) -> Tensor:
        """Kernels ``(1 or b, y, x)`` of the flight over a slice, zero frequency in the corner."""
        flights = self.core.propagator.gap_kernels(self._index(indices))
        if not flights:
            return torch.ones(1, *self.core.propagator.shape, dtype=torch.complex64, device=self.device)
        return flights[0].reshape(-1, *flights[0].shape[-2:])

    def get_measurements(self, indices: Any = None) -> Tensor:
        """Measured patterns, all or those of an index."""
        chosen = slice(None) if indices is None else np.asarray(self._index(indices).cpu())
        counts = np.asarray(self.measurements[chosen])
        return torch.as_tensor(counts, dtype=torch.float32, device=self.device)

    def clear_cache(self) -> None:
        """Forget the windows of the last batch."""
        self._current_object_patches = None

    def forward(self, indices: Any) -> Tensor:
        """Expected patterns ``(b, y, x)``, zero frequency in the middle."""
        self._current_object_patches = self.get_obj_patches(indices)
        return self.core.detector.display(self.core(self._index(indices)))

    def _index(self, indices: Any) -> Tensor:
        return torch.as_tensor(indices, dtype=torch.long, device=self.device)


def get_scan(core: Ptychography, /) -> Scan4D:
    """A scan of the model's own geometry without counts, for what projections ask."""
    flight = core.propagator
    scan = core.scan
    geometry = _make_geometry(flight.wavelength, flight.shape, flight.pixel)
    empty = np.broadcast_to(np.float32(0), (len(scan.start), *flight.shape))
    return Scan4D(counts=empty, positions=scan.angstrom(), geometry=geometry, grid=scan.grid)


def get_init_variables(core: Ptychography, scan: Scan4D, init: Mapping[str, Any], /) -> dict[str, Any]:
    """First guesses as arrays, by PtyRAD's names."""
    window = scan.window
    grid = scan.grid or (len(scan), 1)
    distances = core.propagator.distances()
    thickness = float(distances[0]) if len(distances) else float(init["obj_slice_thickness"])
    flight = torch.tensor(thickness, dtype=torch.float64)
    with torch.no_grad():
        corner, rest = core.scan(torch.arange(len(scan)))
        kernel = angular_spectrum(window.shape, window.pixel, window.wavelength, flight)
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
            "H": kernel.to(torch.complex64).numpy(),
            "on_the_fly_meas_padded": None,
            "on_the_fly_meas_padded_idx": None,
            "on_the_fly_meas_scale_factors": None,
        }


def _build_core(given: Mapping[str, Any], blur: float) -> Ptychography:
    """The experiment of a set of arrays."""
    wave = torch.as_tensor(np.asarray(given["obj"])).to(torch.complex64)
    modes = torch.as_tensor(np.asarray(given["probe"])).to(torch.complex64)
    scan = _build_scan(given, (modes.shape[-2], modes.shape[-1]))
    window = scan.window
    canvas = Canvas((wave.shape[-2], wave.shape[-1]), window.shape, window.pixel, (0.0, 0.0))
    gaps = (float(np.ravel(given["slice_thickness"])[0]),) * (wave.shape[1] - 1)
    tilts = torch.as_tensor(np.asarray(given["obj_tilts"], np.float64)) * 1e-3
    occupancy = torch.as_tensor(np.asarray(given["omode_occu"], np.float32))
    collect = "bilinear" if given.get("simu_match_mode") == "resample" else "area"
    return Ptychography(
        object=PixelObject(wave, "amplitude and phase", gaps, canvas, occupancy),
        probe=Probe(modes, window, relative=False),
        scan=Positions.of(scan, canvas),
        propagator=FreeFlight(scan, gaps, angular_spectrum, tilts),
        detector=detectors.counting(scan, blur=blur, collect=collect),
    )


def _build_scan(given: Mapping[str, Any], window: tuple[int, int]) -> Scan4D:
    """Measured patterns where PtyRAD's numbers put them; padding and resampling on the fly included."""
    counts = _prepare_counts(np.asarray(given["measurements"], np.float32), given)
    pixel = float(given["dx"])
    modelled = _make_geometry(float(given["lambd"]), window, (pixel, pixel))
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


def _prepare_counts(counts: np.ndarray, given: Mapping[str, Any]) -> np.ndarray:
    padded = given.get("on_the_fly_meas_padded")
    zoom = given.get("on_the_fly_meas_scale_factors")
    if padded is not None:
        top, bottom, left, right = given["on_the_fly_meas_padded_idx"]
        frame = np.asarray(padded, np.float32).reshape(1, *np.shape(padded)[-2:])
        larger = np.repeat(frame, len(counts), 0)
        larger[:, top:bottom, left:right] = counts
        counts = larger
    if zoom is not None and any(factor != 1 for factor in zoom):
        patterns = torch.from_numpy(counts)[None]
        resampled = nn.functional.interpolate(patterns, scale_factor=tuple(zoom), mode="bilinear")
        counts = (resampled[0] / math.prod(zoom)).numpy()
    return counts


@torch.no_grad()
def _move_to_pixels(core: Ptychography) -> Ptychography:
    """The same positions, as whole pixels and the rest that PtyRAD refines."""
    place = core.scan.start + core.scan.offsets
    core.scan.start.copy_(place.round())
    core.scan.offsets.copy_(place - core.scan.start)
    return core
