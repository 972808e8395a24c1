"""Amplitudes that a model expects, in one compiled call, where its experiment allows it."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from phaseloom.physics.cache import TensorCache
from phaseloom.physics.engine import misfit as engine
from phaseloom.ptycho.illumination import AberratedProbe
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton import arrays

__all__ = ["CompiledAmplitudes"]


class CompiledAmplitudes:
    """Roots of the counts that one model expects, without masked pixels."""

    def __init__(self, model: Ptychography):
        self.model = model
        self._transmission: TensorCache[Tensor] = TensorCache()
        self._pupil: TensorCache[arrays.PupilArrays] = TensorCache()

    @torch.no_grad()
    def __call__(self, index: Int[Tensor, " b"], /) -> Float[Tensor, "b y x"] | None:
        """Those of some patterns, pixels in an order of their own; ``None`` where there are no kernels."""
        model = self.model
        layout = arrays.find_wave_layout(model)
        if layout is None:
            return None
        corner, rest = model.scan(index)
        height, width = model.object.window
        found = model.scan.start.new_empty(len(index), height, width)
        try:
            self._fill(layout, corner, rest, model.detector.weights[index], found)
        except engine.list_compile_errors() as problem:
            engine.leave_out(model.scan.start.dtype, problem)
            return None
        return found

    def _fill(
        self, layout: engine.WaveLayout, corner: Tensor, rest: Tensor, weights: Tensor, found: Tensor
    ) -> None:
        model = self.model
        leaf = arrays.get_leaf(model.object)
        glass = self._transmission.get(lambda: model.object.transmission().detach(), leaf)
        if isinstance(model.probe, AberratedProbe):
            modes = np.empty((1, 0), found.numpy().dtype)
            lens = model.probe.edge, model.probe.start, model.probe.unit, model.probe.share
            pupil = self._pupil.get(lambda: arrays.gather_pupil(layout, model.probe), *lens)
            pupil = arrays.renew_pupil(pupil, model.probe)
        else:
            modes = engine.view_real(model.probe.modes().detach())
            pupil = arrays.gather_pupil(layout, model.probe)
        engine.load_amplitudes().expect_amplitudes(
            layout.axes,
            layout.sizes,
            layout.places,
            layout.make_workspace(leaf.shape[1], len(modes)),
            layout.make_ramps(),
            arrays.flatten_numbers(glass),
            tuple(leaf.shape[1:]),
            arrays.gather_flights(layout, model),
            (weights.numpy(), arrays.gather_fields(layout, model)),
            modes,
            tuple(pupil),
            (corner.numpy(), rest.numpy()),
            found.view(len(found), -1).numpy(),
        )
