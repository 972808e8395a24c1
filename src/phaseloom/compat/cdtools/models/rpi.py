"""CDTools' randomized probe imaging: one pattern of a known, structured probe, one object."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from scipy.ndimage import binary_dilation
from torch import Tensor, nn

from phaseloom.compat.cdtools import results
from phaseloom.compat.cdtools.arguments import accepts
from phaseloom.compat.cdtools.attributes import ParameterAlias, ReadOnly, not_available
from phaseloom.compat.cdtools.build import Options, prepare_scan
from phaseloom.compat.cdtools.datasets import Ptycho2DDataset
from phaseloom.compat.cdtools.datasets.base import METRES_PER_ANGSTROM, CDataset, check_dataset, to_array
from phaseloom.compat.cdtools.fit import choose_patterns
from phaseloom.compat.cdtools.models.scan_model import ScanModel
from phaseloom.compat.cdtools.objectives import ShotFit
from phaseloom.data.scan import ACROSS, Geometry, Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.ptycho import detectors
from phaseloom.ptycho.bandlimited_start import spectral_start
from phaseloom.ptycho.illumination import Illumination, Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import BandlimitedObject, make_start, resample_field
from phaseloom.ptycho.scans import Canvas

__all__ = ["RPI"]

STARTS = ("random", "uniform", "spectral")
FLAGS = ("exponentiate_obj", "phase_only")


class KnownModes(Illumination):
    """Modes that are known but for a matrix that mixes them.

    Attributes:
        known: ``(mode, y, x)`` in square roots of counts.
        matrix: ``(mode, mode)``: each mode as a sum of the known ones; a parameter.
    """

    known: Tensor

    def __init__(self, known: Complex[Tensor, "mode y x"]):
        super().__init__()
        self.register_buffer("known", known)
        self.matrix = nn.Parameter(torch.eye(len(known), dtype=known.dtype))

    def modes(self) -> Complex[Tensor, "mode y x"]:
        """The mixed modes."""
        return torch.tensordot(self.matrix, self.known, 1)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The matrix."""
        return {"probe": [self.matrix]}


class RPI(ScanModel):
    """Randomized probe imaging: an object of few pixels behind a known probe of finer structure.

    ``subset=[k]`` of the optimisers is the pattern that is used; `init_obj` starts anew for another, and
    `reconstruct_each` does so for all. Translations are not used. ``model.obj`` are free numbers of the
    object ``(mode, y, x)``: transmission, or, with ``exponentiate_obj`` or ``phase_only``, its phase.

    Attributes:
        probe: ``(mode, y, x)`` in square roots of counts.
        weights: matrix that mixes the modes of the probe; free with ``weight_matrix``.

    Source:
        Levitan et al. 2020, doi 10.1364/OE.397421.
    """

    probe: Any = ReadOnly(lambda model: model.core.probe.modes().detach())
    weights: Any = ReadOnly(lambda model: _mixing_matrix(model.core.probe))
    obj: Any = ParameterAlias((1,))
    prop_dir: Any = ReadOnly(lambda model: torch.tensor([0.0, 0.0, 1.0]))
    propagation_distance: Any = ReadOnly(lambda model: torch.zeros(()))
    obj_support: Any = ReadOnly(lambda model: _object_support(model.bandlimited_object))
    random_init: Any = not_available("random_init", "is not available: call model.init_obj('random')")
    uniform_init: Any = not_available("uniform_init", "is not available: call model.init_obj('uniform')")
    spectral_init: Any = not_available("spectral_init", "is not available: call model.init_obj('spectral')")
    get_obj_shape_and_n_modes: Any = not_available(
        "get_obj_shape_and_n_modes", "is not available: see model.obj.shape"
    )

    def __init__(self, core: Ptychography, options: Options, scan: Scan4D, *, data: bool = True):
        super().__init__(core, options, scan, data=data)
        self.fit = ShotFit(core, options.loss, self.fit.data)

    @classmethod
    @accepts(
        "dataset probe obj_size background mask n_modes saturation scattering_mode oversampling "
        "initialization weight_matrix exponentiate_obj phase_only probe_threshold loss dtype "
        "panel_plot_mode plot_level",
        probe=inspect.Parameter.empty,
    )
    def from_dataset(cls, dataset: CDataset, probe: Any, obj_size: Any, **given: Any) -> Any:
        """A model of patterns that were all taken with the same probe.

        ``probe`` is ``(mode, y, x)``, or one mode, in square roots of counts, on the pixels of the exit wave;
        ``n_modes`` are those of the object; ``background`` and ``mask`` are by default the dataset's; the
        object lies in the plane conjugate to the detector.

        Raises:
            BadInput: a probe of another size than the exit wave, or an object larger than the probe.
        """
        own = check_dataset("from_dataset", dataset).scan
        mask = to_array(given["mask"])
        dark = to_array(given["background"])
        scan = replace(
            own,
            background=own.background if dark is None else dark,
            mask=own.mask if mask is None else mask.astype(bool),
        )
        options = Options(**given | {"n_modes": 1}, n_obj_modes=given["n_modes"])
        threshold = float(given["probe_threshold"])
        core, options = _build_model(scan, options, probe, obj_size, threshold, bool(given["weight_matrix"]))
        model = cls(core, options, own)
        model.init_obj(given["initialization"], pattern=own.counts[np.arange(1)][0])
        return model

    @classmethod
    @accepts(
        "calibration obj_size n_modes saturation exponentiate_obj phase_only initialization dtype "
        "panel_plot_mode plot_level loss"
    )
    def from_calibration(cls, calibration: Mapping[str, Any], initialization: str, **given: Any) -> Any:
        """A model of a probe that ptychography has found; ``spectral`` needs a pattern: call `init_obj`.

        Raises:
            BadInput: results that lack probe, wavelength or obj_basis.
        """
        dataset = Ptycho2DDataset.of(_calibrated_scan(calibration))
        if initialization == "spectral":
            fix = "needs a pattern: take another, then model.init_obj('spectral', pattern=...)"
            raise BadInput("from_calibration: initialization", initialization, fix)
        oversampling = int(calibration.get("oversampling", 1))
        start = {"initialization": initialization, "oversampling": oversampling}
        return cls.from_dataset(dataset, calibration["probe"], **given, **start)

    @classmethod
    def from_results_dict(cls, results_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model of what `save_results` gave, here or in CDTools; the others are not used."""
        found = dict(results_dict)
        if results.as_text(found.get("model_class", "")) != "RPI":
            raise BadInput("results", found.get("model_class"), "are not of RPI: use RPI.from_calibration")
        state = dict(found["state_dict"])
        ours = "phaseloom_version" in found
        waves = to_array(found["obj_modes"] if ours else state["obj"])
        known = {**found, "obj_basis": found["probe_basis"]}
        if not ours:
            known |= {name: state[name] for name in ("wavelength", "mask", "oversampling") if name in state}
        flags = {name: bool(to_array(found.get(name, state.get(name, False)))) for name in FLAGS}
        loss = results.as_text(found["loss_function"])
        model = cls.from_calibration(
            known, waves.shape[-2:], len(waves), initialization="uniform", loss=loss, **flags
        )
        if not ours and flags["exponentiate_obj"]:
            waves = np.exp(1j * (np.real(waves) if flags["phase_only"] else waves))
        model.core.object.set_transmission(torch.as_tensor(waves, dtype=torch.complex64)[:, None])
        model._load_history(found)
        return model

    @property
    def bandlimited_object(self) -> BandlimitedObject:
        """The object."""
        thing = self.core.object
        assert isinstance(thing, BandlimitedObject)
        return thing

    def save_results(self, dataset: CDataset | None = None) -> dict[str, Any]:
        """All that was found; ``obj`` and ``obj_basis`` are those of the object's own pixels.

        ``obj_modes`` are all its modes ``(mode, y, x)``; ``mask`` is that of the detector.
        """
        found = super().save_results(dataset)
        thing = self.bandlimited_object
        ratio = np.array(thing.canvas.shape) / np.array(thing.grid)
        waves = thing.coarse().detach().cpu().resolve_conj().numpy()[:, 0].copy()
        found |= {"obj": waves[0], "obj_modes": waves, "obj_basis": found["probe_basis"] * ratio}
        found["mask"] = self.core.detector.display(self.core.detector.mask).cpu().numpy()
        return found | {name: getattr(self.options, name) for name in FLAGS}

    @torch.no_grad()
    def init_obj(
        self,
        initialization_type: str,
        obj_shape: Any = None,
        n_modes: int | None = None,
        pattern: Any = None,
    ) -> None:
        """Start anew: another guess of the object, and optimisers without memory.

        ``initialization_type`` is ``random`` (drawn from torch's own generator), ``uniform`` or ``spectral``,
        which starts from a ``pattern`` of counts ``(y, x)`` with zero frequency in their middle. Pixels and
        modes are by default as many as before.

        Raises:
            BadInput: no such start, or ``spectral`` without a pattern.
        """
        how = str(initialization_type).lower().strip()
        core = self.core
        if how not in STARTS:
            raise BadInput("init_obj", initialization_type, nearest(how, STARTS))
        if how == "spectral" and pattern is None:
            raise BadInput("init_obj: pattern", None, "is needed by a spectral start")
        old = self.bandlimited_object
        grid = old.grid if obj_shape is None else _object_size(obj_shape, old.canvas.shape)
        modes = len(old.occupancy) if n_modes is None else n_modes
        seed = int(torch.randint(2**31, ()))
        start = make_start("random" if how == "random" else "uniform", (modes, 1, *grid), seed)
        if (modes, *grid) != (len(old.occupancy), *old.grid):
            support = None if grid != old.grid else old.support
            core.object = _object(start, old.kind, old.canvas, support).to(core.scan.start.device)
        if how == "spectral":
            counts = torch.as_tensor(to_array(pattern), dtype=torch.float32, device=core.scan.start.device)
            first = torch.zeros(1, dtype=torch.long, device=counts.device)
            start = spectral_start(core, core.detector.arrange(counts)[None], first, seed=seed)
        core.object.set_transmission(start.to(core.scan.start.device))
        old_fit = self.fit
        self.fit = ShotFit(core, self.options.loss, old_fit.data)
        self.fit.losses = old_fit.losses
        self.fit.lines = old_fit.lines

    def regularizer(self, factors: Any) -> Tensor:
        """``factors[0]`` times the sum of squares of the first mode, ``factors[1]`` times that of others.

        Of an object of amplitude ``a`` and phase ``p``, it is that of its logarithm: ``p^2 + (ln a)^2``.
        """
        thing = self.core.object
        factors = np.atleast_1d(to_array(factors))
        if thing.kind == "complex":
            square = thing.wave.abs().square()
        else:
            square = thing.phase.square()
            if thing.kind != "phase":
                square = square + thing.amplitude.clamp(min=1e-6).log().square()
        if len(square) > 1 and len(factors) < 2:
            fix = "must be two numbers for an object of several modes: for the first and for the others"
            raise BadInput("regularizer: factors", factors.tolist(), fix)
        total = float(factors[0]) * square[0].sum()
        return total if len(square) == 1 else total + float(factors[1]) * square[1:].sum()

    def reconstruct_each(
        self,
        iterations: int,
        dataset: CDataset,
        *,
        subset: Any = None,
        initialization: str = "random",
        **knobs: Any,
    ) -> Iterator[Complex[Tensor, "mode y x"]]:
        """One object after the other, each from its own pattern; ``model.obj`` is that of the last.

        ``initialization`` is that of `init_obj`; other arguments are those of `Adam_optimize`.
        """
        for number in choose_patterns(subset, len(dataset)).tolist():
            self.init_obj(initialization, pattern=dataset.scan.counts[np.array([number])][0])
            for _ in self.Adam_optimize(iterations, dataset, subset=[number], **knobs):
                pass
            yield self.bandlimited_object.coarse().detach()[:, 0].clone()


def _build_model(  # noqa: PLR0917 - what from_dataset was given
    scan: Scan4D, options: Options, probe: Any, size: Any, threshold: float, mixed: bool
) -> tuple[Ptychography, Options]:
    """A model in which nothing but the object, and the mixture of the modes, is free."""
    still = {"positions": np.zeros((len(scan), 2)), "heights": None, "weights": None, "grid": None}
    scan = prepare_scan(replace(scan, geometry=replace(scan.geometry, normal=ACROSS), **still), options)
    plain = to_array(probe)
    if plain is None or plain.dtype.kind not in "fiuc" or plain.ndim < 2:
        raise BadInput("RPI: probe", type(probe).__name__, "must be an array of modes (mode, y, x)")
    modes = torch.as_tensor(plain).to(torch.complex64)
    modes = modes.reshape(-1, *modes.shape[-2:])
    window = scan.window
    if modes.shape[1:] != window.shape:
        fix = f"must have the pixels of the exit wave, {window.shape}"
        raise BadInput("RPI: probe", tuple(modes.shape), fix)
    origin = (-(window.shape[0] // 2) * window.pixel[0], -(window.shape[1] // 2) * window.pixel[1])
    room = Canvas(window.shape, window.shape, window.pixel, origin, (0.0, 0.0))
    grid = _object_size(size, room.shape)
    start = make_start("uniform", (options.n_obj_modes, 1, *grid))
    light = KnownModes(modes) if mixed else Probe(modes, window)
    thing = _object(
        start, options.kind, room, _probe_region(modes, grid, threshold) if threshold > 0 else None
    )
    counting = detectors.counting(scan, saturation=options.saturation)
    core = Ptychography.of(scan, object=thing, probe=light, detector=counting, axial=False)
    core.requires_grad_(False)
    for part in (core.object, *([light] if mixed else [])):
        part.requires_grad_(True)
    return core, options.replace(n_modes=len(modes), free_probe=False)


def _object(start: Tensor, kind: Any, room: Canvas, support: Tensor | None) -> BandlimitedObject:
    """Modes whose powers are their own, as in CDTools, and not shares of a whole."""
    return BandlimitedObject(start, kind, (), room, torch.ones(len(start)), support)


def _probe_region(modes: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """Where a probe of several modes is strong, on coarse pixels, and one pixel around."""
    root = modes.abs().square().sum(0).sqrt()
    strong = resample_field(root, grid).abs()
    wide = binary_dilation((strong > threshold * strong.max()).numpy())
    return torch.as_tensor(wide, dtype=torch.float32)


def _calibrated_scan(found: Mapping[str, Any]) -> Scan4D:
    """A scan of one empty pattern, of the geometry in which a probe was found."""
    missing = [name for name in ("wavelength", "obj_basis", "probe") if name not in found]
    if missing:
        raise BadInput("from_calibration", None, f"lacks {', '.join(missing)}: give what save_results gave")
    probe = to_array(found["probe"])
    basis = to_array(found["obj_basis"]).astype(np.float64) / METRES_PER_ANGSTROM
    wavelength = float(to_array(found["wavelength"])) / METRES_PER_ANGSTROM
    finer = int(found.get("oversampling", 1))
    pixel = np.linalg.norm(basis, axis=0)
    rows, columns = (n // finer for n in probe.shape[-2:])
    geometry = Geometry(
        wavelength=wavelength,
        shape=(rows, columns),
        angle=(wavelength / (rows * pixel[0]), wavelength / (columns * pixel[1])),
        distance=1 / METRES_PER_ANGSTROM,
        basis=tuple(map(tuple, (basis / pixel).tolist())),
    )
    good = to_array(found.get("mask"))
    return Scan4D(
        counts=np.broadcast_to(np.float32(1), (1, rows, columns)),
        positions=np.zeros((1, 2)),
        geometry=geometry,
        background=to_array(found.get("background")),
        mask=np.ones((rows, columns), bool) if good is None else good.astype(bool),
    )


def _object_size(given: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Pixels of the object; half as many as the probe has by default."""
    if given is None:
        return max(shape[0] // 2, 1), max(shape[1] // 2, 1)
    size = np.asarray(given).reshape(-1)
    if size.shape != (2,) or (size < 1).any() or (size != size.round()).any() or (size > shape).any():
        raise BadInput("RPI: obj_size", given, f"must be two numbers of pixels, at most {shape}")
    return int(size[0]), int(size[1])


def _object_support(thing: BandlimitedObject) -> Tensor:
    """Coarse pixels that are not zero for certain."""
    return torch.ones(thing.grid, dtype=torch.bool) if thing.support is None else thing.support.bool()


def _mixing_matrix(probe: Illumination) -> Tensor:
    if isinstance(probe, KnownModes):
        return probe.matrix
    return torch.eye(len(probe.modes()), dtype=torch.complex64)
