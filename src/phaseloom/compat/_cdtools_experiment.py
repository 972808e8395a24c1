"""What CDTools models are, before anything is fitted: parameters by name, patterns, a device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.compat import _cdtools_operations as operations
from phaseloom.compat._cdtools_build import Options
from phaseloom.compat._cdtools_datasets import CDataset, Ptycho2DDataset, device_of
from phaseloom.compat._cdtools_fit import Fit, chosen, parts, whole
from phaseloom.compat._cdtools_saved import refined
from phaseloom.compat._cdtools_views import Window
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.physics.modes import orthogonalise
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.relaxed import RelaxedProbe

__all__ = ["Experiment", "seen"]


@dataclass
class Part:
    """A parameter of the model by CDTools' name; setting it copies values into it."""

    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Take the name of the attribute."""
        self.name = name

    def __get__(self, owner: "Experiment | None", kind: type | None = None) -> Any:
        """The parameter itself."""
        if owner is None:
            return self
        named = parts(owner.core)
        if self.name not in named:
            raise AttributeError(f"this experiment has no {self.name}")
        return named[self.name][0]

    def __set__(self, owner: "Experiment", value: Any) -> None:
        """Copy values of the same shape."""
        mine, new = self.__get__(owner), torch.as_tensor(value)
        if new.shape != mine.shape:
            raise BadInput(f"model.{self.name}", tuple(new.shape), f"must have the shape {tuple(mine.shape)}")
        with torch.no_grad():
            mine.copy_(new)


@dataclass(frozen=True)
class Told:
    """What a model tells and does not let be changed."""

    tell: Callable[[Any], Any]

    def __get__(self, owner: Any, kind: type | None = None) -> Any:
        """Its value now."""
        return self if owner is None else self.tell(owner)


class Experiment(nn.Module):
    """An experiment and its fit; a subclass says how it is made from a dataset.

    The parameters are those of our parts: ``model.probe.requires_grad = False`` freezes the probe. The
    probe is relative to its first peak, ``background`` the square root relative to that of the mean count,
    and ``translation_offsets`` are object pixels; ``save_results`` has all of them in plain units.

    Attributes:
        core: the `Ptychography` that does the work.
        options: what it was made with.
        scan: the data that it was made of; of a loaded model, all but the patterns.
        fit: optimisers and history.
        probe, obj, background, translation_offsets, weights: parameters; an object of amplitude and
            phase has both frozen with ``obj``, which is the phase.
        probe_fourier_shifts, heights, height_scale: parameters, where the model has them.
        loss_history: mean loss of each epoch so far.
        epoch: number of epochs so far.
    """

    probe: Any = Part()
    obj: Any = Part()
    background: Any = Part()
    translation_offsets: Any = Part()
    weights: Any = Part()
    probe_fourier_shifts: Any = Part()
    heights: Any = Part()
    height_scale: Any = Part()
    loss_history: Any = Told(lambda model: model.fit.losses)
    epoch: Any = Told(lambda model: len(model.fit.losses))

    def __init__(self, core: Ptychography, options: Options, scan: Scan4D, *, data: bool = True):
        super().__init__()
        self.core, self.options, self.scan, self.window = core, options, scan, Window()
        faster = float(options.translation_scale)
        self.fit = Fit(core, options.loss, scan if data else None, faster=faster)

    def forward(self, index: Any, translation: Any = None) -> Tensor:
        """Expected patterns of an index, with zero frequency in their middle.

        Args:
            index: numbers of patterns.
            translation: not looked at: the model knows where each pattern was taken.
        """
        place = torch.as_tensor(index, device=self.core.scan.start.device)
        patterns = self.core.detector.display(self.core(place.reshape(-1)))
        return patterns if place.ndim else patterns[0]

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move to a device.

        Raises:
            BadInput: there is no such device here.
        """
        wanted = kwargs.get("device", args[0] if args and isinstance(args[0], str | int) else None)
        if wanted is not None:
            device_of(wanted, "model.to")
        return super().to(*args, **kwargs)

    def corrected_translations(self, dataset: CDataset | None = None) -> np.ndarray:
        """Translations of the beam as they are now, metres ``(n, 3)``."""
        return refined(self)

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
        index, translations = (None, None) if args_list is None else args_list
        index = index.cpu().numpy() if isinstance(index, Tensor) else index
        found = chosen(index, len(self.scan), "sim_to_dataset: index")
        width = None if calculation_width is None else whole("calculation_width", calculation_width)
        return Ptycho2DDataset.of(operations.simulated(self.core, self.scan, found, translations, width))


@torch.no_grad()
def seen(model: Experiment, /) -> Mapping[str, Any]:
    """What a live view draws."""
    core, wave = model.core, model.core.object.transmission()[0]
    inside = (slice(None), *(_within(n, model.options.obj_view_crop or 0) for n in wave.shape[-2:]))
    return {
        "object": wave[inside].cpu().resolve_conj().numpy(),
        "probe": core.probe.modes().cpu().resolve_conj().numpy(),
        "pixel": core.scan.canvas.pixel,
        "coverage": core.coverage()[inside[1:]],
        "history": model.fit.losses,
    }


def _within(count: int, crop: int) -> slice:
    """All but so many at either end; all where that would leave nothing."""
    return slice(crop, count - crop) if 0 < 2 * crop < count else slice(None)
