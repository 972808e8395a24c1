"""What compiled kernels read of an experiment: the object, the beam and the detector as plain arrays."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.fitting.distributed import team
from phaseloom.physics.engine import misfit as engine
from phaseloom.ptycho.illumination import AberratedProbe, Probe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.objects import PixelObject
from phaseloom.ptycho.scans import Positions

__all__ = ["PupilArrays", "find_wave_layout", "flatten_numbers", "gather_fields", "gather_flights"]
__all__ += ["gather_pupil", "get_leaf", "is_plain_experiment", "renew_pupil"]


class PupilArrays(NamedTuple):
    """The aperture of a lens where it is open; see `phaseloom.physics.engine.lens.fill_pupil`."""

    places: np.ndarray
    amplitude: np.ndarray
    bases: np.ndarray
    start: np.ndarray
    unit: np.ndarray
    bend: np.ndarray
    root: np.ndarray


def is_plain_experiment(model: Ptychography, /) -> bool:
    """Whether kernels of any kind know object, scan and detector: one process, the far field, no tilt."""
    return (
        team().world_size == 1
        and model.scan.canvas.tiling is None
        and model.illumination_sum is None
        and model.supports_fast_path()
        and model.detector.counts_plainly()
        and len(model.propagator.tilt) == 1
        and type(model.object) is PixelObject
        and type(model.scan) is Positions
        and model.object.kind in ("complex", "phase")
        and get_leaf(model.object).is_contiguous()
        and get_leaf(model.object).real.dtype == model.scan.start.dtype
    )


def find_wave_layout(model: Ptychography, /) -> engine.WaveLayout | None:
    """How waves lie in planes, if kernels of a processor can take this experiment."""
    dtype = model.scan.start.dtype
    window = model.object.window[0], model.object.window[1]
    if model.scan.start.device.type != "cpu" or not is_plain_experiment(model):
        return None
    if not _is_known_probe(model.probe, dtype):
        return None
    return engine.lay_out_waves(window, dtype) if engine.can_compile(window, dtype) else None


def _is_known_probe(probe: nn.Module, dtype: torch.dtype) -> bool:
    """Whether kernels have the modes: of free pixels, or the one of a lens."""
    if type(probe) is AberratedProbe:
        return probe.bend.dtype == dtype and probe.split_pupil() is not None
    return type(probe) is Probe and probe.is_plain() and probe.relative.real.dtype == dtype


def get_leaf(thing: PixelObject, /) -> nn.Parameter:
    """The numbers of an object of complex pixels, or of phases."""
    leaf = thing.wave if thing.kind == "complex" else thing.phase
    assert isinstance(leaf, nn.Parameter)
    return leaf


def flatten_numbers(numbers: Tensor, /) -> np.ndarray:
    """Numbers in a row, complex ones as real and imaginary parts in turn."""
    return (engine.view_real(numbers) if numbers.is_complex() else numbers.numpy()).reshape(-1)


def gather_fields(layout: engine.WaveLayout, model: Ptychography, /) -> tuple[np.ndarray, ...]:
    """Flat field, background and mask in the order of a plane; empty where there is none."""
    named = model.detector.fields()
    return tuple(layout.arrange(named[name]) for name in ("flat", "background", "mask"))


def gather_flights(layout: engine.WaveLayout, model: Ptychography, /) -> tuple[np.ndarray, np.ndarray]:
    """Kernels of the flights from slice to slice."""
    return layout.arrange_flights(model.propagator.gap_kernels(torch.zeros(1, dtype=torch.long)))


def renew_pupil(pupil: PupilArrays, probe: AberratedProbe, /) -> PupilArrays:
    """The same aperture with the changes of coefficients, and the root of the power, that hold now."""
    bend, root = (one.detach().contiguous().numpy() for one in (probe.bend, probe.roots))
    return pupil._replace(bend=bend, root=root)


def gather_pupil(layout: engine.WaveLayout, probe: Any, /) -> PupilArrays:
    """The aperture of a lens where it is open; of a probe of pixels there is no place."""
    if not isinstance(probe, AberratedProbe):
        empty = np.zeros(0, layout.frequencies[0].dtype)
        return PupilArrays(np.zeros(0, np.int64), empty, empty[:, None], empty, empty, empty, empty)
    pupil = probe.split_pupil()
    assert pupil is not None
    at, pixel = layout.own
    height, width = pupil.amplitude.shape
    y, x = pixel // width, pixel % width
    sign = 1 - 2 * ((y + x) % 2)  # the mode stands in the middle of its window, whose sides are even
    amplitude = pupil.amplitude.flatten()[pixel] * sign / (height * width)
    inside = amplitude.nonzero()[:, 0]
    bases = pupil.bases.flatten(1)[:, pixel[inside]]
    numbers = (amplitude[inside], bases, pupil.start, pupil.unit, probe.bend.detach(), probe.roots.detach())
    return PupilArrays(at[inside].numpy(), *(one.contiguous().numpy() for one in numbers))
