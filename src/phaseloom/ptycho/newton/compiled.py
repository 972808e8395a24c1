"""Newton steps of many batches in one compiled call, where model, likelihood and rules allow it.

The steps are those that `phaseloom.fitting.updates.step_on_each` makes one by one, to rounding: on small
patterns most of its time is spent between the kernels.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.fitting.newton import GaussNewton
from phaseloom.physics.engine import misfit as engine
from phaseloom.physics.patches import group_windows, merge_boxes
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.steps import MAX_NUMBER_STEP, MAX_POSITION_STEP
from phaseloom.ptycho.newton.together import BatchRun, MovingPart, StepsTogether
from phaseloom.ptycho.noise import find_compiled_form

__all__ = ["CompiledSteps"]

NUMBERS_AT_ONCE = 2**26
"""Numbers of waves in a compiled call at most: about a quarter of a second, for Ctrl-C waits for its end."""

BYTES_AT_ONCE = 2**23
"""Bytes of patterns that are read for a call, where they are not in memory."""


class CompiledSteps(StepsTogether):
    """Steps on a processor, where numba has compiled their kernels."""

    def __init__(self, model: Ptychography, likelihood: Likelihood, optimizer: GaussNewton):
        super().__init__(model, likelihood, optimizer)
        self._patterns: np.ndarray | None = None
        self._workspace = np.empty(0)
        self._gradient = np.empty(0)

    def _run(self, run: BatchRun) -> Tensor | None:
        """See `StepsTogether`."""
        dtype = self.model.scan.start.dtype
        shape = (self.model.object.window[0], self.model.object.window[1])
        if self.model.scan.start.device.type != "cpu" or not engine.can_compile(shape, dtype):
            return None
        layout = engine.lay_out_waves(shape, dtype)
        assert layout is not None
        try:
            return torch.from_numpy(self._step(layout, run))
        except engine.list_compile_errors() as problem:
            engine.leave_out(dtype, problem)
            return None

    def _step(self, layout: engine.WaveLayout, run: BatchRun) -> np.ndarray:
        """Numbers of each batch."""
        parts, pieces, sizes = run.parts, run.pieces, run.sizes
        index = run.index.numpy()
        kernels = engine.load_steps()
        arrays = self._gather_arrays(layout, parts)
        knobs = self._make_knobs(parts, sizes)
        first = np.concatenate([[0], np.cumsum(sizes)])
        found = np.zeros((len(sizes), 5))
        in_pieces = [len(several) > 1 for several in pieces]
        none = np.zeros((0, 4), np.int64)
        done = 0
        while done < len(sizes):
            end, counts = self._load_counts(layout, arrays.probe[-1].size, index, first, done)
            while done < end:
                last = next((b for b in range(done, end) if in_pieces[b]), end)
                given = (*arrays, knobs, index, first, counts, found)
                if done < last:
                    done = kernels.step_batches(*given, (done, last), none)
                if done < end:  # its windows share no rectangle
                    boxes = self._find_boxes(kernels, arrays, pieces[done])
                    done = kernels.step_batches(*given, (done, done + 1), boxes)
        return found

    def _gather_arrays(self, layout: engine.WaveLayout, parts: Mapping[str, MovingPart]) -> "_StepArrays":
        """What the kernels read and write, other than counts."""
        model = self.model
        wave = model.object.wave
        assert isinstance(wave, nn.Parameter)
        assert isinstance(model.probe, Probe)
        relative = model.probe.relative
        noise = find_compiled_form(self.likelihood.divergence)
        assert noise is not None
        unit = layout.frequencies[0].dtype.type
        empty = np.zeros(0, unit)
        field = (empty, empty, empty, empty)
        if "object" in parts:
            rule = parts["object"].rule
            speed = engine.view_real(self.optimizer.get_velocity(wave)).reshape(-1)
            wide, lone = (one.to(wave.real.dtype).numpy().reshape(-1) for one in (rule.wide, rule.lone))
            field = self._get_gradient(wave), speed, wide, lone
        speed = empty
        if "probe" in parts:
            speed = engine.view_real(self.optimizer.get_velocity(relative)).reshape(-1)
        numbers = engine.view_real(relative.detach())
        named = model.detector.fields()
        fields = (named["flat"], named["background"], named["mask"])
        slices = wave.shape[1]
        room = layout.count_numbers(slices, len(relative))
        if self._workspace.size != room or self._workspace.dtype != unit:
            self._workspace = layout.make_workspace(slices, len(relative))
        return _StepArrays(
            layout.axes,
            layout.sizes,
            layout.places,
            self._workspace,
            layout.make_ramps(),
            layout.frequencies,
            layout.arrange_flights(model.propagator.gap_kernels(torch.zeros(1, dtype=torch.long))),
            (model.detector.weights.detach().numpy(), tuple(map(layout.arrange, fields))),
            (*engine.name_noise(noise), self.likelihood.floor),
            (engine.view_real(wave.detach()).reshape(-1), *field, tuple(wave.shape[1:])),
            (
                numbers.reshape(-1),
                np.empty(numbers.size, unit),
                speed,
                unit(model.probe.scale),
                np.empty_like(numbers),
            ),
            self._gather_positions(),
            self._gather_rules(parts),
            (MAX_POSITION_STEP, MAX_NUMBER_STEP),
        )

    def _get_gradient(self, wave: Tensor) -> np.ndarray:
        """Room for the gradient of the object, zero between two batches."""
        if self._gradient.size != 2 * wave.numel():
            self._gradient = np.zeros(2 * wave.numel(), engine.view_real(wave.detach()[..., :1, :1]).dtype)
        return self._gradient

    def _gather_positions(self) -> tuple[Any, ...]:
        """Positions as kernels make them; see `phaseloom.physics.engine.steps.step_batches`."""
        scan = self.model.scan
        map_ = scan.split_map()
        half, _, room = (tuple(one.long().tolist()) for one in scan.bounds())
        moved = scan.offsets.detach().numpy(), map_.arm.numpy(), map_.fixed.numpy()
        turned = map_.turned.numpy(), scan.affine.detach().numpy(), map_.reach
        return *moved, *turned, float(scan.step), half, room

    def _gather_rules(self, parts: Mapping[str, MovingPart]) -> tuple[np.ndarray, ...]:
        """Curvatures of positions and of their map."""
        offsets = self.model.scan.offsets.detach()
        inverse = offsets.new_zeros(0, 2, 2)
        centre = torch.zeros_like(offsets)
        speed = offsets.new_zeros(2, 2)
        of_map = offsets.new_zeros(4, 4)
        if "positions" in parts:
            rule = parts["positions"].rule
            inverse = rule.inverse
            centre = centre if rule.prior is None else rule.prior.centre
        if "affine" in parts:
            speed = self.optimizer.get_velocity(parts["affine"].parameter)
            of_map = parts["affine"].rule.inverse
        return tuple(one.contiguous().numpy() for one in (inverse, centre, speed, of_map))

    def _load_counts(
        self, layout: engine.WaveLayout, numbers: int, index: np.ndarray, first: np.ndarray, at: int
    ) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        """The batch to stop before, and counts for those from ``at`` on with the row of each pattern."""
        height, width = self.model.object.window
        measured = self.likelihood.measured
        most = max(1, NUMBERS_AT_ONCE // (numbers * self.model.object.wave.shape[1]))
        kept = measured.list_kept()
        if kept is None:
            most = min(most, max(1, BYTES_AT_ONCE // (4 * height * width)))
        end = max(at + 1, int(np.searchsorted(first, first[at] + most, side="right")) - 1)
        end = min(end, len(first) - 1)
        dtype = torch.from_numpy(layout.frequencies[0]).dtype
        if kept is not None:
            if self._patterns is None:
                self._patterns = layout.arrange_counts(kept.patterns.to(dtype))
            rows = index if kept.place is None else kept.place.numpy()[index]
            return end, (self._patterns, rows)
        some = measured[torch.from_numpy(index[first[at] : first[end]])]
        return end, (layout.arrange_counts(some.to(dtype)), np.arange(len(index)) - first[at])

    def _find_boxes(self, kernels: Any, arrays: "_StepArrays", pieces: Sequence[Tensor]) -> np.ndarray:
        """Rectangles of the object that the plain path would step in."""
        window = (self.model.object.window[0], self.model.object.window[1])
        boxes: list[Any] = []
        for piece in pieces:
            corners = np.empty((len(piece), 2), np.int64)
            kernels.place_batch(piece.numpy(), arrays.positions, corners, np.empty((len(piece), 2)))
            boxes += group_windows(corners, window)[0]
        height, width = self.model.object.wave.shape[-2:]
        return np.array(merge_boxes(boxes, (height, width)), np.int64)


class _StepArrays(NamedTuple):
    """The first arguments of `phaseloom.physics.engine.steps.step_batches`."""

    axes: Any
    sizes: Any
    places: Any
    workspace: np.ndarray
    ramps: Any
    frequencies: Any
    flights: Any
    fields: Any
    noise: Any
    wave: Any
    probe: Any
    positions: Any
    rules: Any
    most: Any
