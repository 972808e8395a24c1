"""CDTools' built-in models: a `Ptychography` of ours with its names."""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom import plot
from phaseloom.compat.cdtools import operations, results
from phaseloom.compat.cdtools.arguments import check_whole, report_write_errors
from phaseloom.compat.cdtools.attributes import ParameterAlias, ReadOnly, not_available
from phaseloom.compat.cdtools.build import Options
from phaseloom.compat.cdtools.datasets import Ptycho2DDataset
from phaseloom.compat.cdtools.datasets.base import (
    METRES_PER_ANGSTROM,
    CDataset,
    check_dataset,
    to_translations,
)
from phaseloom.compat.cdtools.figures import LiveWindow, press_key
from phaseloom.compat.cdtools.fit import choose_patterns
from phaseloom.compat.cdtools.models.base import STAGES, CDIModel
from phaseloom.compat.cdtools.objectives import ScanFit
from phaseloom.compat.cdtools.tools import losses
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.modes import orthogonalise
from phaseloom.plot.gui import SteppedView
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.probes.opr import RelaxedProbe

__all__ = ["ScanModel"]

PATTERN_LOSSES = {
    "amplitude mse": (losses.amplitude_mse, losses.AmplitudeMSENormalizer),
    "intensity mse": (losses.intensity_mse, losses.IntensityMSENormalizer),
    "poisson nll": (losses.poisson_nll, losses.SimplePoissonNLLNormalizer),
}
"""What patterns are compared by, for those who want to compare others; a fit has its own."""

NO_STAGES = "is not available, for this model is not made of stages: call model(index) for patterns"
NO_PLOT = "is not available: model.inspect() draws object, probe, places and losses"
NOT_AVAILABLE = {
    "interaction": NO_STAGES,
    "forward_propagator": NO_STAGES,
    "backward_propagator": NO_STAGES,
    "measurement": NO_STAGES,
    "plot_wavefront_variation": NO_PLOT,
    "plot_illumination_intensity": NO_PLOT,
    "plot_translations_and_originals": NO_PLOT,
    "get_rhos": "is not available: see CDTools.tools.analysis",
}
"""Methods of CDTools without a counterpart."""

OPTION_ATTRIBUTES = (
    "saturation oversampling fourier_probe exponentiate_obj phase_only simulate_probe_translation"
)
OPTION_ATTRIBUTES += " simulate_finite_pixels"
"""Options that are attributes of the model: tensors, or ``None``."""


def _device(model: Any) -> torch.device:
    return model.core.scan.start.device


def _floats(read: Any) -> Any:
    """Numbers in single precision on the model's device."""
    return ReadOnly(lambda model: torch.as_tensor(read(model), dtype=torch.float32, device=_device(model)))


def _option(name: str) -> ReadOnly:
    """An option as a tensor, or ``None``."""

    def get(model: Any) -> Tensor | None:
        value = getattr(model.options, name)
        return None if value is None else torch.tensor(value, device=_device(model))

    return ReadOnly(get, name)


def _min_translation(model: Any) -> np.ndarray:
    """Where windows begin is their translation in pixels less this."""
    canvas = model.core.scan.canvas
    return np.array(canvas.origin) / np.array(canvas.pixel) + np.array(canvas.window) // 2


def _probe_support(model: Any) -> Tensor:
    support = getattr(model.core.probe, "support", None)
    disk = None if support is None else support.disk
    window = model.core.scan.canvas.window
    return torch.ones(window, dtype=torch.bool, device=_device(model)) if disk is None else disk.bool()


def _propagator(model: Any) -> Tensor | None:
    return model.core.propagator.onward


def _inverse_propagator(model: Any) -> Tensor | None:
    kernel = _propagator(model)
    return None if kernel is None else kernel.conj().resolve_conj()


def _interslice_propagator(model: Any) -> Tensor | None:
    index = torch.zeros(1, dtype=torch.long, device=_device(model))
    kernels = model.core.propagator.gap_kernels(index) if model.options.nz > 1 else []
    return kernels[0].detach().reshape(model.core.scan.canvas.window) if kernels else None


def _qe_mask(model: Any) -> Tensor | None:
    flat = model.scan.flat if model.options.use_qe_mask else None
    return None if flat is None else torch.tensor(flat, dtype=torch.float32, device=_device(model))


def _view_slice(model: Any) -> tuple[slice, ...]:
    """Rows and columns of the object that figures show; all where the crop would leave nothing."""
    crop = model.options.obj_view_crop or 0
    shape = model.core.object.canvas.shape
    return tuple(slice(crop, count - crop) if 0 < 2 * crop < count else slice(None) for count in shape)


class ScanModel(CDIModel):
    """An experiment of ours and its fit; a subclass says how it is made from a dataset.

    Parameters are those of our parts: ``model.probe.requires_grad = False`` freezes the probe. What follows
    from data and options cannot be set. Shapes and units are those of docs/cdtools.md; ``save_results`` has
    all of them in plain units.

    Attributes:
        core: the `Ptychography` that does the work.
        options: what it was made with.
        scan: the data that it was made of; of a loaded model, all but the patterns.
        units: of lengths, kept only.
        window: the live view.
        probe: ``(mode, y, x)``, relative to ``probe_norm``; a parameter, as all up to `height_scale`.
        obj: ``(y, x)``, with an axis of states or slices before them where it has several. Of an object of
            amplitude and phase it is the phase, with which the amplitude is frozen.
        background: ``(y, x)``, the square root of counts relative to that of the mean count.
        translation_offsets: ``(n, 2)`` rows and columns; object pixels are `translation_scale` times that.
        weights: ``(n,)`` of intensities, or mixtures ``(n, dm_rank, n_modes)``.
        probe_fourier_shifts, heights, height_scale: where the model has them.
        obj_basis, probe_basis: steps ``(3, 2)`` of their rows and columns, metres.
        original_translations: ``(n, 3)`` of the beam, metres.
        min_translation: ``(2,)`` pixels: a window begins at its translation in pixels less this.
        angular_spectrum_propagator, inv_angular_spectrum_propagator: ``(y, x)`` of near fields, zero
            frequency in the corner; or ``None``.
        loss: ``(measured, modelled, mask)`` to a number, as in CDTools; `loss_normalizer`: one for it.
    """

    fit: ScanFit  # pyright: ignore[reportIncompatibleVariableOverride]
    probe: Any = ParameterAlias()
    obj: Any = ParameterAlias((0, 1))
    background: Any = ParameterAlias()
    translation_offsets: Any = ParameterAlias()
    weights: Any = ParameterAlias()
    probe_fourier_shifts: Any = ParameterAlias()
    heights: Any = ParameterAlias()
    height_scale: Any = ParameterAlias()

    wavelength: Any = _floats(lambda model: model.scan.geometry.wavelength * METRES_PER_ANGSTROM)
    obj_basis: Any = _floats(results.object_basis)
    probe_basis: Any = ReadOnly(lambda model: model.obj_basis)
    original_translations: Any = _floats(
        lambda model: to_translations(model.scan.positions, model.scan.heights, model.scan.geometry)
    )
    min_translation: Any = _floats(_min_translation)
    surface_normal: Any = _floats(lambda model: model.scan.geometry.normal)
    translation_scale: Any = _floats(lambda model: model.core.scan.step)
    mask: Any = ReadOnly(lambda model: model.core.detector.display(model.core.detector.mask).bool())
    qe_mask: Any = ReadOnly(_qe_mask)
    probe_norm: Any = ReadOnly(lambda model: getattr(model.core.probe, "scale", torch.ones(())))
    probe_support: Any = ReadOnly(_probe_support)
    near_field: Any = ReadOnly(
        lambda model: torch.tensor(model.scan.geometry.near or model.options.near_field)
    )
    angular_spectrum_propagator: Any = ReadOnly(_propagator)
    inv_angular_spectrum_propagator: Any = ReadOnly(_inverse_propagator)
    interslice_propagator: Any = ReadOnly(_interslice_propagator)
    obj_view_slice: Any = ReadOnly(_view_slice)
    loss: Any = ReadOnly(lambda model: PATTERN_LOSSES[model.options.loss][0])
    loss_normalizer: Any = ReadOnly(lambda model: PATTERN_LOSSES[model.options.loss][1]())

    def __init__(self, core: Ptychography, options: Options, scan: Scan4D, *, data: bool = True):
        super().__init__()
        for name in STAGES:
            if getattr(type(self), name) is not getattr(ScanModel, name):
                fix = "would not be called, for this model has no stages: derive your class from CDIModel"
                raise BadInput(f"{type(self).__name__}.{name}", None, fix)
        self.core = core
        self.options = options
        self.scan = scan
        self.window = LiveWindow()
        self.units = options.units
        dataset = Ptycho2DDataset.of(scan)
        self.store_detector_geometry(dataset.detector_geometry)
        self.fit = ScanFit(core, options.loss, dataset if data else None)  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, index: Any, translation: Any = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Expected patterns of an index, with zero frequency in their middle; translations are not used."""
        place = torch.as_tensor(index, device=_device(self))
        patterns = self.core.detector.display(self.core(place.reshape(-1)))
        return patterns if place.ndim else patterns[0]

    def corrected_translations(self, dataset: CDataset | None = None) -> Tensor:
        """Translations of the beam as they are now, metres ``(n, 3)``."""
        return torch.as_tensor(results.compute_translations(self), dtype=torch.float32)

    @torch.no_grad()
    def tidy_probes(self) -> None:
        """Mix the modes so that they are orthogonal, strongest first."""
        probe = self.core.probe
        if isinstance(probe, RelaxedProbe):
            probe.orthogonalise()
        else:
            probe.set_modes(orthogonalise(probe.modes()))

    def center_probes(self, iterations: int = 4) -> None:
        """Move the probe's centre of mass to the middle of its window, and the object with it.

        Patterns stay what they are, other than in CDTools, where the object stays behind.

        Raises:
            BadInput: a near field, whose patterns show where the probe is; a probe that follows from optics.
        """
        operations.center_probe(self.core, iterations)

    def get_probe_intensities(self) -> np.ndarray:
        """Relative intensity of the probe in each pattern ``(n,)``."""
        return operations.compute_intensities(self.core)

    def sim_to_dataset(self, args_list: Any = None, calculation_width: int | None = None) -> Ptycho2DDataset:
        """A dataset of modelled patterns without noise.

        ``args_list`` are numbers of patterns, whose weights and probes are taken, and translations of the
        beam in metres, which are taken as they are; default: all patterns of the model, at positions as
        refined.

        Raises:
            BadInput: translations that lie outside of the object's array, or are not one for each number.
        """
        if args_list is not None and not (isinstance(args_list, Sequence) and len(args_list) == 2):
            raise BadInput("sim_to_dataset: args_list", args_list, "must be numbers and translations")
        index, translations = (None, None) if args_list is None else args_list
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        numbers = choose_patterns(index, len(self.scan), "sim_to_dataset: index")
        width = calculation_width
        if width is not None:
            check_whole("optimize: calculation_width", width)
        return Ptycho2DDataset.of(operations.simulate(self.core, self.scan, numbers, translations, width))

    def inspect(
        self,
        dataset: CDataset | None = None,
        replot_all: bool = False,
        min_interval: float | None = None,
        *,
        update: bool = True,
    ) -> Any:
        """Object, probe and losses in a figure of pyplot that every further call draws anew.

        ``replot_all`` opens it again if it was closed, ``update=False`` another one; ``dataset`` is not used.
        It is drawn only if ``min_interval`` seconds have passed since the last time.
        """
        recent = min_interval is not None and time.monotonic() - self.window.drawn_at < min_interval
        if recent and self.window.live:
            return self.window.live.figure
        if not update or (replot_all and self.window.has_lost_window()):
            self.window = LiveWindow()
        return self.window.show(self._images, done=self.fit.done or replot_all)

    @torch.no_grad()
    def _images(self) -> Mapping[str, Any]:
        """What the live view draws."""
        core = self.core
        inside = self.obj_view_slice
        return {
            "object": core.object.transmission()[0][(slice(None), *inside)].cpu().resolve_conj().numpy(),
            "probe": core.probe.modes().cpu().resolve_conj().numpy(),
            "pixel": core.scan.canvas.pixel,
            "coverage": core.coverage()[inside],
            "history": self.fit.losses,
        }

    def save_figures(self, prefix: str = "", extension: str = ".pdf") -> list[Path]:
        """Write the figure that `inspect` draws, as it is now, to ``<prefix>Reconstruction<extension>``."""
        live = self.window.live
        figure = self.inspect() if live is None else live.figure
        if live is not None:
            live.draw()
        path = Path(f"{prefix}Reconstruction{extension}")
        with report_write_errors("save_figures", path):
            figure.savefig(path, bbox_inches="tight")
        return [path]

    def compare(self, dataset: CDataset | None = None, logarithmic: bool = True) -> SteppedView:
        """Measured and modelled patterns side by side, by default of the data fitted last.

        Raises:
            BadInput: a model from a file, and no dataset.
        """
        known = self.fit.data if dataset is None else dataset
        if known is None:
            raise BadInput("compare: dataset", None, "is needed by a model that was loaded: compare(dataset)")
        scan = check_dataset("compare", known).scan
        view = plot.compare(scan, lambda index: self(torch.tensor([index]))[0])
        return view if logarithmic else press_key(view, "l")

    def save_results(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, dataset: CDataset | None = None
    ) -> dict[str, Any]:
        """All that was found as a dict of numpy arrays, numbers and text, fit for pickle."""
        scan = None if dataset is None else check_dataset("save_results", dataset).scan
        return results.collect_results(self, scan)

    @classmethod
    def from_results_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        results_dict: Mapping[str, Any],
        dataset: CDataset | None = None,
        obj_view_crop: int | None = None,
        units: str | None = None,
    ) -> Any:
        """The model of what `save_results` gave, here or in CDTools; `CDIModel` reads those of any class.

        `SimplePtycho` of CDTools needs the dataset: its results hold no translations.

        Raises:
            BadInput: results of another class, of another program, or of a model that is not supported.
        """
        found = dict(results_dict)
        if "state_dict" not in found:
            raise BadInput("results", None, "lack state_dict: they are not what save_results of a model gave")
        kind = _find_class(results.as_text(found.get("model_class", "CDIModel")), cls)
        if kind is not cls:
            return kind.from_results_dict(found, dataset, obj_view_crop, units)
        core, options, scan = results.rebuild_model(found, None if dataset is None else dataset.scan)
        changes = {"obj_view_crop": obj_view_crop, "units": units}
        options = options.replace(**{name: value for name, value in changes.items() if value is not None})
        model = cls(core, options, scan, data=dataset is not None)
        model._load_history(found)
        return model


CDIModel.built_in = ScanModel
for _name in OPTION_ATTRIBUTES.split():
    setattr(ScanModel, _name, _option(_name))
for _name, _meaning in NOT_AVAILABLE.items():
    setattr(ScanModel, _name, not_available(_name, _meaning))


def _find_class(name: str, asked: type[ScanModel]) -> type[ScanModel]:
    """The class of a name: the one that was asked for, one derived from it, or a built-in one.

    Raises:
        BadInput: a class that is not the one that was asked for.
    """
    if name in ("CDIModel", asked.__name__):
        return asked
    models = import_module("phaseloom.compat.cdtools.models")
    known: dict[str, Any] = {one.__name__: one for one in _subclasses(ScanModel)}
    kind = known.get(name, getattr(models, name, None))
    if not (isinstance(kind, type) and issubclass(kind, asked)):
        raise BadInput("results", name, f"are of another model: use {name}.from_results_h5")
    return kind


def _subclasses(kind: type) -> list[type]:
    return [one for direct in kind.__subclasses__() for one in (direct, *_subclasses(direct))]
