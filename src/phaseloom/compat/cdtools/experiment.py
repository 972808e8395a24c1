"""CDTools' models that are ready: a `Ptychography` of ours with its names."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phaseloom import plot
from phaseloom.compat.cdtools import cdtools_results as theirs
from phaseloom.compat.cdtools import operations, saved
from phaseloom.compat.cdtools.attributes import Described, within
from phaseloom.compat.cdtools.base import STAGES
from phaseloom.compat.cdtools.build import Options
from phaseloom.compat.cdtools.datasets import CDataset, Ptycho2DDataset
from phaseloom.compat.cdtools.fit import chosen
from phaseloom.compat.cdtools.likelihood import ScanFit
from phaseloom.compat.cdtools.validate import data_of, whole, writing
from phaseloom.compat.cdtools.views import Window, pressed
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.modes import orthogonalise
from phaseloom.plot.gui import View
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.opr import RelaxedProbe

__all__ = ["Experiment", "seen"]


class Experiment(Described):
    """An experiment of ours and its fit; a subclass says how it is made from a dataset.

    The parameters are those of our parts: ``model.probe.requires_grad = False`` freezes the probe.
    `Described` tells their shapes and units; ``save_results`` has all of them in plain units.

    Attributes:
        core: the `Ptychography` that does the work.
        options: what it was made with.
        scan: the data that it was made of; of a loaded model, all but the patterns.
        fit: optimisers and history.
        units: of lengths, for CDTools' sake.
        window: the live view.
    """

    fit: Any

    def __init__(self, core: Ptychography, options: Options, scan: Scan4D, *, data: bool = True):
        super().__init__()
        unheard = [name for name in STAGES if getattr(type(self), name) is not getattr(Experiment, name)]
        if unheard:
            fix = "would not be called, for this model is not made of stages: derive your class from CDIModel"
            raise BadInput(f"{type(self).__name__}.{unheard[0]}", None, fix)
        self.core, self.options, self.scan, self.window = core, options, scan, Window()
        self.units = options.units
        self.store_detector_geometry(Ptycho2DDataset.of(scan).detector_geometry)
        self.fit = ScanFit(core, options.loss, Ptycho2DDataset.of(scan) if data else None)

    def forward(self, index: Any, translation: Any = None) -> Tensor:
        """Expected patterns of an index, with zero frequency in their middle.

        Args:
            index: numbers of patterns.
            translation: not looked at: the model knows where each pattern was taken.
        """
        place = torch.as_tensor(index, device=self.core.scan.start.device)
        patterns = self.core.detector.display(self.core(place.reshape(-1)))
        return patterns if place.ndim else patterns[0]

    def corrected_translations(self, dataset: CDataset | None = None) -> Tensor:
        """Translations of the beam as they are now, metres ``(n, 3)``."""
        return torch.as_tensor(saved.refined(self), dtype=torch.float32)

    @torch.no_grad()
    def tidy_probes(self) -> None:
        """Mix the modes so that they are orthogonal, strongest first."""
        probe = self.core.probe
        if isinstance(probe, RelaxedProbe):
            probe.tidy()
        else:
            probe.put(orthogonalise(probe.modes()))

    def center_probes(self, iterations: int = 4) -> None:
        """Move the probe's centre of mass to the middle of its window, and the object with it.

        Patterns stay what they are, other than in CDTools, where the object stays behind.

        Args:
            iterations: how often the centre is looked for anew.

        Raises:
            BadInput: a near field, whose patterns show where the probe is; a probe that follows from optics.
        """
        operations.centre(self.core, iterations)

    def get_probe_intensities(self) -> np.ndarray:
        """Relative intensity of the probe in each pattern ``(n,)``."""
        return operations.intensities(self.core)

    def sim_to_dataset(self, args_list: Any = None, calculation_width: int | None = None) -> Ptycho2DDataset:
        """A dataset of modelled patterns without noise.

        Args:
            args_list: numbers of patterns, whose weights and probes are taken, and translations of the beam
                in metres, which are taken as they are; default: all patterns of the model, at positions as
                refined.
            calculation_width: patterns that are modelled at once; default: all.

        Raises:
            BadInput: translations that lie outside of the object's array, or are not one for each number.
        """
        if args_list is not None and not (isinstance(args_list, Sequence) and len(args_list) == 2):
            raise BadInput("sim_to_dataset: args_list", args_list, "must be numbers and translations")
        index, translations = (None, None) if args_list is None else args_list
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        found = chosen(index, len(self.scan), "sim_to_dataset: index")
        width = None if calculation_width is None else whole("calculation_width", calculation_width)
        return Ptycho2DDataset.of(operations.simulated(self.core, self.scan, found, translations, width))

    def inspect(
        self,
        dataset: CDataset | None = None,
        replot_all: bool = False,
        min_interval: float | None = None,
        *,
        update: bool = True,
    ) -> Any:
        """Object, probe and losses in a figure of pyplot that every further call draws anew.

        Args:
            dataset: for CDTools' sake; nothing of it is drawn.
            replot_all: open it again if it was closed.
            min_interval: draw only if so many seconds have passed since the last time.
            update: False opens another figure.
        """
        now = time.monotonic()
        if min_interval is not None and self.window.live and now - self.window.drawn < min_interval:
            return self.window.live.figure
        anew = not update or (replot_all and self.window.closed())
        self.window = Window() if anew else self.window
        return self.window.show(lambda: seen(self), done=self.fit.done or replot_all)

    def save_figures(self, prefix: str = "", extension: str = ".pdf") -> list[Path]:
        """Write the figure that `inspect` draws, as it is now, to ``<prefix>Reconstruction<extension>``."""
        live = self.window.live
        figure = self.inspect() if live is None else live.figure
        if live is not None:
            live.draw()
        path = Path(f"{prefix}Reconstruction{extension}")
        with writing("save_figures", path):
            figure.savefig(path, bbox_inches="tight")
        return [path]

    def compare(self, dataset: CDataset | None = None, logarithmic: bool = True) -> View:
        """Measured and modelled patterns side by side, by default of the data fitted last.

        Raises:
            BadInput: a model from a file, and no dataset.
        """
        known = self.fit.data if dataset is None else dataset
        if known is None:
            raise BadInput("compare: dataset", None, "is needed by a model that was loaded: compare(dataset)")
        view = plot.compare(data_of("compare", known).scan, lambda index: self(torch.tensor([index]))[0])
        return view if logarithmic else pressed(view, "l")

    def save_results(self, dataset: CDataset | None = None) -> dict[str, Any]:  # type: ignore[override]
        """All that was found as a dict of numpy arrays, numbers and text, fit for pickle."""
        return saved.results(self, None if dataset is None else data_of("save_results", dataset).scan)

    @classmethod
    def from_results_dict(  # type: ignore[override]
        cls, results_dict: Mapping[str, Any], dataset: CDataset | None = None
    ) -> Any:
        """The model of what `save_results` gave, here or in CDTools; `CDIModel` reads those of any class.

        Args:
            results_dict: the results.
            dataset: the patterns, which `SimplePtycho` of CDTools cannot do without: its results hold no
                translations.

        Raises:
            BadInput: results of another class or of another program, or of a model that is not built yet.
        """
        found = dict(results_dict)
        if "state_dict" not in found:
            fix = "lack state_dict: they are not what save_results of a model gave"
            raise BadInput("results", None, fix)
        name = saved.text(found.get("model_class", "CDIModel"))
        kind = _named(name, cls)
        if kind is not cls:
            return kind.from_results_dict(found, dataset)
        scan = None if dataset is None else dataset.scan
        if theirs.recognised(found):
            core, options, scan = theirs.rebuilt(found, scan)
        else:
            core, options, scan = saved.rebuilt(found)
        model = cls(core, options, scan, data=dataset is not None)
        model.fit.losses[:] = [float(loss) for loss in found["loss_history"]]
        model.fit.lines[:] = saved.text(found["training_history"]).splitlines()
        return model


@torch.no_grad()
def seen(model: Experiment, /) -> Mapping[str, Any]:
    """What a live view draws."""
    core, wave = model.core, model.core.object.transmission()[0]
    inside = (slice(None), *within(model, wave.shape))
    return {
        "object": wave[inside].cpu().resolve_conj().numpy(),
        "probe": core.probe.modes().cpu().resolve_conj().numpy(),
        "pixel": core.scan.canvas.pixel,
        "coverage": core.coverage()[inside[1:]],
        "history": model.fit.losses,
    }


def _named(name: str, asked: type[Experiment]) -> type[Experiment]:
    """The class of a name: the one that was asked for, one that was made of it, or one of CDTools'."""
    if name in ("CDIModel", asked.__name__):
        return asked
    known = {one.__name__: one for one in _all(Experiment)}
    if name not in known:
        with suppress(AttributeError, ImportError):
            known[name] = getattr(import_module("phaseloom.compat.cdtools.models"), name)
    kind = known.get(name)
    if kind is None or not issubclass(kind, asked):
        raise BadInput("results", name, f"are of another model: use {name}.from_results_h5")
    return kind


def _all(kind: type[Experiment]) -> Iterator[type[Experiment]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _all(one)
