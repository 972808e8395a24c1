"""CDTools' randomized probe imaging: one pattern of a known, structured probe, one object."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex
from scipy.ndimage import binary_dilation
from torch import Tensor

from phaseloom.compat.cdtools import saved
from phaseloom.compat.cdtools.attributes import Part
from phaseloom.compat.cdtools.base import Told, unwritten
from phaseloom.compat.cdtools.build import Options, arranged
from phaseloom.compat.cdtools.data import ANGSTROM
from phaseloom.compat.cdtools.datasets import CDataset, Ptycho2DDataset
from phaseloom.compat.cdtools.experiment import Experiment
from phaseloom.compat.cdtools.fit import chosen
from phaseloom.compat.cdtools.shots import KnownModes, Shots
from phaseloom.compat.cdtools.validate import asked, data_of
from phaseloom.data.scan import ACROSS, Geometry, Scan4D
from phaseloom.errors import BadInput, nearest
from phaseloom.ptycho import detectors
from phaseloom.ptycho.bandlimited_start import spectral
from phaseloom.ptycho.illumination import Illumination, Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.object_models import BandlimitedObject, begun, resampled
from phaseloom.ptycho.scans import Canvas

__all__ = ["RPI"]

STARTS = ("random", "uniform", "spectral")


class RPI(Experiment):
    """Randomized probe imaging: an object of few pixels behind a known probe of finer structure.

    ``subset=[k]`` of the optimisers is the pattern that is looked at; `init_obj` starts anew for another, and
    `reconstruct_each` does so for all. Translations are not looked at. ``model.obj`` are free numbers of the
    object ``(mode, y, x)``: transmission, or, with ``exponentiate_obj`` or ``phase_only``, its phase.

    Attributes:
        probe: ``(mode, y, x)`` in square roots of counts.
        weights: matrix that mixes the modes of the probe; free with ``weight_matrix``.

    Source:
        Levitan et al. 2020, doi 10.1364/OE.397421.
    """

    probe: Any = Told(lambda model: model.core.probe.modes().detach())
    weights: Any = Told(lambda model: _matrix(model.core.probe))
    obj: Any = Part((1,))
    prop_dir: Any = Told(lambda model: torch.tensor([0.0, 0.0, 1.0]))
    propagation_distance: Any = Told(lambda model: torch.zeros(()))
    obj_support: Any = Told(lambda model: _allowed(model.thing))
    random_init: Any = unwritten("random_init", "is not built: call model.init_obj('random')")
    uniform_init: Any = unwritten("uniform_init", "is not built: call model.init_obj('uniform')")
    spectral_init: Any = unwritten("spectral_init", "is not built: call model.init_obj('spectral')")
    get_obj_shape_and_n_modes: Any = unwritten(
        "get_obj_shape_and_n_modes", "is not built: see model.obj.shape"
    )

    def __init__(self, core: Ptychography, options: Options, scan: Scan4D, *, data: bool = True):
        super().__init__(core, options, scan, data=data)
        self.fit = Shots(core, options.loss, Ptycho2DDataset.of(scan) if data else None)

    @classmethod
    @asked
    def from_dataset(  # noqa: PLR0913, PLR0917 - as CDTools has it
        cls,
        dataset: CDataset,
        probe: Any,
        obj_size: Any = None,
        background: Any = None,
        mask: Any = None,
        n_modes: int = 1,
        saturation: float | None = None,
        scattering_mode: str | None = None,
        oversampling: int = 1,
        initialization: str = "random",
        weight_matrix: bool = False,
        exponentiate_obj: bool = False,
        phase_only: bool = False,
        probe_threshold: float = 0,
        loss: str = "amplitude mse",
        dtype: Any = None,
        panel_plot_mode: bool = True,
        plot_level: int = 1,
    ) -> Any:
        """A model of patterns that were all taken with the same probe.

        Args:
            dataset: the data.
            probe: ``(mode, y, x)``, or one mode, in square roots of counts, on the pixels of the exit wave.
            obj_size: pixels of the object (rows, columns); default: half as many as the probe has.
            background: counts without beam; default: the dataset's.
            mask: True: good; default: the dataset's.
            n_modes: incoherent modes of the object.
            saturation: counts at which a pixel of the detector is full.
            scattering_mode: for CDTools' sake: the object lies in the plane conjugate to the detector.
            oversampling: modelled pixels per detector pixel and axis.
            initialization: ``random`` phases, ``uniform`` (which finds objects of less than a turn of phase
                from far fewer pixels of the pattern), or ``spectral``, from the first pattern.
            weight_matrix: refine how the modes of the probe mix.
            exponentiate_obj: an object of amplitude and phase, not of real and imaginary part.
            phase_only: an object of phase (see `FancyPtycho`).
            probe_threshold: the object is zero where the probe's amplitude, on the object's pixels, is below
                this share of its peak, but for a border of one pixel.
            loss: ``amplitude mse``, ``intensity mse`` or ``poisson nll``.
            dtype: for CDTools' sake: single precision.
            panel_plot_mode: for CDTools' sake.
            plot_level: for CDTools' sake.

        Raises:
            BadInput: a probe of another size than the exit wave, or an object larger than the probe.
        """
        scan = replace(
            data_of("from_dataset", dataset).scan,
            background=dataset.scan.background if background is None else _array(background),
            mask=dataset.scan.mask if mask is None else _array(mask).astype(bool),
        )
        options = Options(
            n_obj_modes=n_modes,
            saturation=saturation,
            oversampling=oversampling,
            exponentiate_obj=exponentiate_obj,
            phase_only=phase_only,
            loss=loss.lower().strip().replace("_", " "),
        )
        core, options = _experiment(
            scan, options, probe, obj_size, float(probe_threshold), bool(weight_matrix)
        )
        model = cls(core, options, dataset.scan)
        model.init_obj(initialization, pattern=dataset.scan.counts[np.arange(1)][0])
        return model

    @classmethod
    def from_calibration(  # noqa: PLR0913, PLR0917 - as CDTools has it
        cls,
        calibration: Mapping[str, Any],
        obj_size: Any = None,
        n_modes: int = 1,
        saturation: float | None = None,
        exponentiate_obj: bool = False,
        phase_only: bool = False,
        initialization: str = "random",
        dtype: Any = None,
        panel_plot_mode: bool = True,
        plot_level: int = 1,
        loss: str = "amplitude mse",
    ) -> Any:
        """A model of a probe that ptychography has found.

        Args:
            calibration: what ``save_results`` of a model gave, here or in CDTools: of it ``probe``,
                ``obj_basis`` and ``wavelength``, and, if there, ``background``, ``mask``, ``oversampling``.
            obj_size: see `from_dataset`, also for the following.
            n_modes: see there.
            saturation: see there.
            exponentiate_obj: see there.
            phase_only: see there.
            initialization: ``random`` or ``uniform``; ``spectral`` needs a pattern: call `init_obj`.
            dtype: see there.
            panel_plot_mode: see there.
            plot_level: see there.
            loss: see there.

        Raises:
            BadInput: results that lack one of the three.
        """
        dataset = Ptycho2DDataset.of(_calibrated(calibration))
        if initialization == "spectral":
            fix = "needs a pattern: take another, then model.init_obj('spectral', pattern=...)"
            raise BadInput("from_calibration: initialization", initialization, fix)
        return cls.from_dataset(
            dataset,
            calibration["probe"],
            obj_size,
            n_modes=n_modes,
            saturation=saturation,
            oversampling=int(calibration.get("oversampling", 1)),
            initialization=initialization,
            exponentiate_obj=exponentiate_obj,
            phase_only=phase_only,
            loss=loss,
        )

    @classmethod
    def from_results_dict(cls, results_dict: Mapping[str, Any], dataset: CDataset | None = None) -> Any:
        """The model of what `save_results` gave, here or in CDTools."""
        found = dict(results_dict)
        if saved.text(found.get("model_class", "")) != "RPI":
            raise BadInput("results", found.get("model_class"), "are not of RPI: use RPI.from_calibration")
        state, ours = dict(found["state_dict"]), "phaseloom_version" in found
        waves = _array(found["obj_modes"] if ours else state["obj"])
        known = {**found, "obj_basis": found["probe_basis"]}
        if not ours:
            known |= {name: state[name] for name in ("wavelength", "mask", "oversampling") if name in state}
        flags = {name: bool(_array(found.get(name, state.get(name, False)))) for name in FLAGS}
        model = cls.from_calibration(
            known,
            waves.shape[-2:],
            len(waves),
            **flags,
            initialization="uniform",
            loss=saved.text(found["loss_function"]),
        )
        if not ours and flags["exponentiate_obj"]:
            waves = np.exp(1j * (np.real(waves) if flags["phase_only"] else waves))
        model.core.object.put(torch.as_tensor(waves, dtype=torch.complex64)[:, None])
        model.fit.losses[:] = [float(loss) for loss in found["loss_history"]]
        model.fit.lines[:] = saved.text(found["training_history"]).splitlines()
        return model

    @property
    def thing(self) -> BandlimitedObject:
        """The object."""
        thing = self.core.object
        assert isinstance(thing, BandlimitedObject)
        return thing

    def save_results(self, dataset: CDataset | None = None) -> dict[str, Any]:
        """All that was found; ``obj`` and ``obj_basis`` are those of the object's own pixels.

        ``obj_modes`` are all its modes ``(mode, y, x)``; ``mask`` is that of the detector.
        """
        found, thing = super().save_results(dataset), self.thing
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

        Args:
            initialization_type: ``random`` (drawn from torch's own generator), ``uniform`` or ``spectral``.
            obj_shape: pixels; default: as many as before.
            n_modes: incoherent modes of the object; default: as many as before.
            pattern: counts ``(y, x)`` with zero frequency in their middle; ``spectral`` starts from them.

        Raises:
            BadInput: no such start, or ``spectral`` without a pattern.
        """
        how, core = str(initialization_type).lower().strip(), self.core
        if how not in STARTS:
            raise BadInput("init_obj", initialization_type, nearest(how, STARTS))
        if how == "spectral" and pattern is None:
            raise BadInput("init_obj: pattern", None, "is needed by a spectral start")
        old = self.thing
        grid = old.grid if obj_shape is None else _size(obj_shape, old.canvas.shape)
        modes = len(old.occupancy) if n_modes is None else n_modes
        seed = int(torch.randint(2**31, ()))
        start = begun("random" if how == "random" else "uniform", (modes, 1, *grid), seed)
        if (modes, *grid) != (len(old.occupancy), *old.grid):
            support = None if grid != old.grid else old.support
            core.object = _object(start, old.kind, old.canvas, support).to(core.scan.start.device)
        if how == "spectral":
            counts = torch.as_tensor(_array(pattern), dtype=torch.float32, device=core.scan.start.device)
            first = torch.zeros(1, dtype=torch.long, device=counts.device)
            start = spectral(core, core.detector.arrange(counts)[None], first, seed=seed)
        core.object.put(start.to(core.scan.start.device))
        done, self.fit = self.fit, Shots(core, self.options.loss, self.fit.data)
        self.fit.losses, self.fit.lines = done.losses, done.lines

    def regularizer(self, factors: Any) -> Tensor:
        """``factors[0]`` times the sum of squares of the first mode, ``factors[1]`` times that of others.

        Of an object of amplitude ``a`` and phase ``p``, it is that of its logarithm: ``p^2 + (ln a)^2``.
        """
        thing, factors = self.core.object, np.atleast_1d(_array(factors))
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

        Args:
            iterations: epochs of `Adam_optimize` for each.
            dataset: the patterns.
            subset: numbers of those to look at.
            initialization: see `init_obj`.
            **knobs: of `Adam_optimize`.
        """
        for number in chosen(subset, len(dataset)).tolist():
            self.init_obj(initialization, pattern=dataset.scan.counts[np.array([number])][0])
            for _ in self.Adam_optimize(iterations, dataset, subset=[number], **knobs):
                pass
            yield self.thing.coarse().detach()[:, 0].clone()


FLAGS = ("exponentiate_obj", "phase_only")


def _experiment(  # noqa: PLR0917 - what from_dataset was given
    scan: Scan4D, options: Options, probe: Any, size: Any, threshold: float, mixed: bool
) -> tuple[Ptychography, Options]:
    """A model in which nothing but the object, and the mixture of the modes, is free."""
    still = {"positions": np.zeros((len(scan), 2)), "heights": None, "weights": None, "grid": None}
    scan = arranged(replace(scan, geometry=replace(scan.geometry, normal=ACROSS), **still), options)
    plain = _array(probe)
    if plain.dtype.kind not in "fiuc" or plain.ndim < 2:
        raise BadInput("RPI: probe", type(probe).__name__, "must be an array of modes (mode, y, x)")
    modes = torch.as_tensor(plain).to(torch.complex64)
    modes, window = modes.reshape(-1, *modes.shape[-2:]), scan.window
    if modes.shape[1:] != window.shape:
        raise BadInput(
            "RPI: probe", tuple(modes.shape), f"must have the pixels of the exit wave, {window.shape}"
        )
    origin = (-(window.shape[0] // 2) * window.pixel[0], -(window.shape[1] // 2) * window.pixel[1])
    room = Canvas(window.shape, window.shape, window.pixel, origin, (0.0, 0.0))
    grid = _size(size, room.shape)
    kind = "phase" if options.phase_only else "amplitude and phase" if options.exponentiate_obj else "complex"
    start = begun("uniform", (options.n_obj_modes, 1, *grid))
    light = KnownModes(modes) if mixed else Probe(modes, window)
    thing = _object(start, kind, room, _support(modes, grid, threshold) if threshold > 0 else None)
    counting = detectors.counting(scan, saturation=options.saturation)
    core = Ptychography.of(scan, object=thing, probe=light, detector=counting, axial=False)
    core.requires_grad_(False)
    for part in (core.object, *([light] if mixed else [])):
        part.requires_grad_(True)
    return core, replace(options, n_modes=len(modes), free_probe=False)


def _object(start: Tensor, kind: Any, room: Canvas, support: Tensor | None) -> BandlimitedObject:
    """Modes whose powers are their own, as in CDTools, and not shares of a whole."""
    return BandlimitedObject(start, kind, (), room, torch.ones(len(start)), support)


def _support(modes: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """Where a probe of several modes is strong, on coarse pixels, and one pixel around."""
    root = modes.abs().square().sum(0).sqrt()
    strong = resampled(root, grid).abs()
    wide = binary_dilation((strong > threshold * strong.max()).numpy())
    return torch.as_tensor(wide, dtype=torch.float32)


def _calibrated(found: Mapping[str, Any]) -> Scan4D:
    """A scan of one empty pattern, of the geometry in which a probe was found."""
    missing = [name for name in ("wavelength", "obj_basis", "probe") if name not in found]
    if missing:
        raise BadInput("from_calibration", None, f"lacks {', '.join(missing)}: give what save_results gave")
    probe, basis = _array(found["probe"]), _array(found["obj_basis"]).astype(np.float64) / ANGSTROM
    wavelength, finer = float(_array(found["wavelength"])) / ANGSTROM, int(found.get("oversampling", 1))
    pixel = np.linalg.norm(basis, axis=0)
    rows, columns = (n // finer for n in probe.shape[-2:])
    geometry = Geometry(
        wavelength=wavelength,
        shape=(rows, columns),
        angle=(wavelength / (rows * pixel[0]), wavelength / (columns * pixel[1])),
        distance=1 / ANGSTROM,
        basis=tuple(map(tuple, (basis / pixel).tolist())),
    )
    dark, good = found.get("background"), found.get("mask")
    return Scan4D(
        counts=np.broadcast_to(np.float32(1), (1, rows, columns)),
        positions=np.zeros((1, 2)),
        geometry=geometry,
        background=None if dark is None else _array(dark),
        mask=np.ones((rows, columns), bool) if good is None else _array(good).astype(bool),
    )


def _size(given: Any, shape: tuple[int, int]) -> tuple[int, int]:
    """Pixels of the object; half as many as the probe has by default."""
    if given is None:
        return max(shape[0] // 2, 1), max(shape[1] // 2, 1)
    size = np.asarray(given).reshape(-1)
    if size.shape != (2,) or (size < 1).any() or (size != size.round()).any() or (size > shape).any():
        raise BadInput("RPI: obj_size", given, f"must be two numbers of pixels, at most {shape}")
    return int(size[0]), int(size[1])


def _allowed(thing: BandlimitedObject) -> Tensor:
    """Coarse pixels that are not zero for certain."""
    return torch.ones(thing.grid, dtype=torch.bool) if thing.support is None else thing.support.bool()


def _matrix(probe: Illumination) -> Tensor:
    return (
        probe.matrix
        if isinstance(probe, KnownModes)
        else torch.eye(len(probe.modes()), dtype=torch.complex64)
    )


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().resolve_conj() if isinstance(value, Tensor) else value)
