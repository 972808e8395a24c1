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
from phaseloom.physics.cache import TensorCache
from phaseloom.physics.engine import misfit as engine
from phaseloom.physics.patches import group_windows, merge_boxes
from phaseloom.ptycho.illumination import AberratedProbe, Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton import arrays
from phaseloom.ptycho.newton.steps import (
    MAX_NUMBER_STEP,
    MAX_POSITION_STEP,
    CoupledStep,
    PixelStep,
    PositionStep,
    UniformStep,
)
from phaseloom.ptycho.newton.together import PART_COLUMNS, BatchRun, MovingPart, StepsTogether
from phaseloom.ptycho.noise import find_compiled_form

__all__ = ["CompiledSteps"]

NUMBERS_AT_ONCE = 2**26
"""Numbers of waves in a compiled call at most: about a quarter of a second, for Ctrl-C waits for its end."""

BYTES_AT_ONCE = 2**23
"""Bytes of patterns that are read for a call, where they are not in memory."""


class CompiledSteps(StepsTogether[engine.WaveLayout]):
    """Steps on a processor, where numba has compiled their kernels.

    They know what `compiled_misfit` does, for pixels of one state, complex ones or phases, a probe of pixels
    or of a lens, positions, and affine map, rotation and scale of them.
    """

    def __init__(self, model: Ptychography, likelihood: Likelihood, optimizer: GaussNewton):
        super().__init__(model, likelihood, optimizer)
        self._patterns: np.ndarray | None = None
        self._workspace = np.empty(0)
        self._gradient = np.empty(0)
        self._transmission: TensorCache[Tensor] = TensorCache()

    def _mark_changed(self, parts: Mapping[str, MovingPart]) -> None:
        """Let caches know what kernels have written; they have made the transmission of phases anew."""
        leaf = arrays.get_leaf(self.model.object)
        kept = self._transmission.value if self._transmission.is_fresh(leaf) else None
        super()._mark_changed(parts)
        if kept is not None:
            self._transmission.store(kept, leaf)

    def _prepare(self) -> engine.WaveLayout | None:
        """How waves lie in planes, if kernels can take this experiment."""
        if not self._has_plain_objective():
            return None
        layout = arrays.find_wave_layout(self.model)
        known = layout is not None and hasattr(arrays.get_leaf(self.model.object), "touched")
        return layout if known else None

    def _list_known_parts(self) -> dict[nn.Parameter, tuple[str, type[Any]]]:
        """What the kernels can move: its name, and the rule that it needs."""
        model = self.model
        known: dict[nn.Parameter, tuple[str, type[Any]]] = {
            arrays.get_leaf(model.object): ("object", PixelStep),
            model.scan.offsets: ("positions", PositionStep),
            model.scan.affine: ("affine", CoupledStep),
            model.scan.turn: ("turn", CoupledStep),
            model.scan.stretch: ("stretch", CoupledStep),
        }
        if isinstance(model.probe, AberratedProbe):
            known |= {model.probe.bend: ("bend", CoupledStep), model.probe.roots: ("root", CoupledStep)}
        elif isinstance(model.probe, Probe):
            known[model.probe.relative] = ("probe", UniformStep)
        return known

    def _run(self, prepared: engine.WaveLayout, run: BatchRun) -> Tensor | None:
        """See `StepsTogether`."""
        try:
            return torch.from_numpy(self._step(prepared, run))
        except engine.list_compile_errors() as problem:
            engine.leave_out(self.model.scan.start.dtype, problem)
            return None

    def _step(self, layout: engine.WaveLayout, run: BatchRun) -> np.ndarray:
        """Numbers of each batch."""
        parts, pieces, sizes = run.parts, run.pieces, run.sizes
        index = run.index.numpy()
        kernels = engine.load_steps()
        gathered = self._gather_arrays(layout, parts)
        knobs = self._make_knobs(parts, sizes)
        first = np.concatenate([[0], np.cumsum(sizes)])
        found = np.zeros((len(sizes), 1 + len(PART_COLUMNS)))
        in_pieces = [len(several) > 1 for several in pieces]
        none = np.zeros((0, 4), np.int64)
        done = 0
        while done < len(sizes):
            end, counts = self._load_counts(layout, gathered.probe[-1].size, index, first, done)
            while done < end:
                last = next((b for b in range(done, end) if in_pieces[b]), end)
                given = (*gathered, knobs, index, first, counts, found)
                if done < last:
                    done = kernels.step_batches(*given, (done, last), none)
                if done < end:  # its windows share no rectangle
                    boxes = self._find_boxes(kernels, gathered, pieces[done])
                    done = kernels.step_batches(*given, (done, done + 1), boxes)
        return found

    def _gather_arrays(self, layout: engine.WaveLayout, parts: Mapping[str, MovingPart]) -> "_StepArrays":
        """What the kernels read and write, other than counts."""
        model = self.model
        leaf = arrays.get_leaf(model.object)
        noise = find_compiled_form(self.likelihood.divergence)
        assert noise is not None
        unit = layout.frequencies[0].dtype.type
        empty = np.zeros(0, unit)
        field = (empty, empty, empty, empty)
        if "object" in parts:
            rule = parts["object"].rule
            speed = arrays.flatten_numbers(self.optimizer.get_velocity(leaf))
            wide, lone = (one.to(leaf.real.dtype).numpy().reshape(-1) for one in (rule.wide, rule.lone))
            field = self._get_gradient(leaf), speed, wide, lone
        phases = model.object.kind == "phase"
        value = arrays.flatten_numbers(leaf.detach())
        glass = engine.view_real(self._get_transmission()).reshape(-1) if phases else value
        probe, lens, modes = self._gather_probe(layout, parts)
        slices = leaf.shape[1]
        room = layout.count_numbers(slices, modes)
        if self._workspace.size != room or self._workspace.dtype != unit:
            self._workspace = layout.make_workspace(slices, modes)
        return _StepArrays(
            layout.axes,
            layout.sizes,
            layout.places,
            self._workspace,
            layout.make_ramps(),
            layout.frequencies,
            arrays.gather_flights(layout, model),
            (model.detector.weights.detach().numpy(), arrays.gather_fields(layout, model)),
            (*engine.name_noise(noise), self.likelihood.floor),
            (value, *field, tuple(leaf.shape[1:]), glass, phases),
            probe,
            lens,
            self._gather_positions(),
            self._gather_rules(parts),
            (MAX_POSITION_STEP, MAX_NUMBER_STEP),
        )

    def _get_gradient(self, leaf: Tensor) -> np.ndarray:
        """Room for the gradient of the object, zero between two batches."""
        count = leaf.numel() * (2 if leaf.is_complex() else 1)
        if self._gradient.size != count:
            self._gradient = np.zeros(count, leaf.detach()[..., :1, :1].real.numpy().dtype)
        return self._gradient

    def _get_transmission(self) -> Tensor:
        """That of an object of phases, made once: the kernels keep it."""
        thing = self.model.object
        return self._transmission.get(lambda: thing.transmission().detach()[0], thing.phase)

    def _gather_probe(
        self, layout: engine.WaveLayout, parts: Mapping[str, MovingPart]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...], int]:
        """Modes of pixels, or of a lens, as kernels know them; and how many."""
        probe = self.model.probe
        unit = layout.frequencies[0].dtype.type
        empty = np.zeros(0, unit)
        bend, root = (self._gather_numbers(parts, name) for name in ("bend", "root"))
        lens = (*arrays.gather_pupil(layout, probe), *bend, *root)
        if isinstance(probe, AberratedProbe):
            room = np.empty((1, layout.sizes[0], 2 * layout.sizes[1]), unit)
            return (empty, empty, empty, unit(1), room), lens, 1
        assert isinstance(probe, Probe)
        relative = probe.relative
        speed = arrays.flatten_numbers(self.optimizer.get_velocity(relative)) if "probe" in parts else empty
        numbers = engine.view_real(relative.detach())
        modes = np.empty_like(numbers)
        pixels = numbers.reshape(-1), np.empty(numbers.size, unit), speed, unit(probe.scale), modes
        return pixels, lens, len(relative)

    def _gather_numbers(self, parts: Mapping[str, MovingPart], name: str) -> tuple[np.ndarray, np.ndarray]:
        """Velocity and inverse curvature of numbers that hang together; empty where they stand still."""
        if name not in parts:
            none = self.model.scan.start.new_zeros(0)
            return none.numpy(), none.view(0, 0).numpy()
        part = parts[name]
        speed = self.optimizer.get_velocity(part.parameter)
        return speed.view(-1).numpy(), part.rule.inverse.contiguous().numpy()

    def _gather_positions(self) -> tuple[Any, ...]:
        """Positions as kernels make them; see `phaseloom.physics.engine.steps.step_batches`."""
        scan = self.model.scan
        map_ = scan.split_map()
        half, _, room = (tuple(one.long().tolist()) for one in scan.bounds())
        moved = scan.offsets.detach().numpy(), map_.arm.numpy(), map_.fixed.numpy()
        turned = map_.turned.numpy(), scan.affine.detach().numpy(), map_.reach
        turn, stretch = (one.detach().view(1).numpy() for one in (scan.turn, scan.stretch))
        aspect = scan.canvas.pixel[1] / scan.canvas.pixel[0]
        return *moved, *turned, float(scan.step), half, room, turn, stretch, float(aspect)

    def _gather_rules(self, parts: Mapping[str, MovingPart]) -> tuple[np.ndarray, ...]:
        """Curvatures of positions, of their map, rotation and scale."""
        offsets = self.model.scan.offsets.detach()
        inverse = offsets.new_zeros(0, 2, 2)
        centre = torch.zeros_like(offsets)
        if "positions" in parts:
            rule = parts["positions"].rule
            inverse = rule.inverse
            centre = centre if rule.prior is None else rule.prior.centre
        each = [one for name in ("affine", "turn", "stretch") for one in self._gather_numbers(parts, name)]
        return *(one.contiguous().numpy() for one in (inverse, centre)), *each

    def _load_counts(
        self, layout: engine.WaveLayout, numbers: int, index: np.ndarray, first: np.ndarray, at: int
    ) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
        """The batch to stop before, and counts for those from ``at`` on with the row of each pattern."""
        height, width = self.model.object.window
        measured = self.likelihood.measured
        most = max(1, NUMBERS_AT_ONCE // (numbers * arrays.get_leaf(self.model.object).shape[1]))
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

    def _find_boxes(self, kernels: Any, gathered: "_StepArrays", pieces: Sequence[Tensor]) -> np.ndarray:
        """Rectangles of the object that the plain path would step in."""
        window = (self.model.object.window[0], self.model.object.window[1])
        boxes: list[Any] = []
        for piece in pieces:
            corners = np.empty((len(piece), 2), np.int64)
            kernels.place_batch(piece.numpy(), gathered.positions[:9], corners, np.empty((len(piece), 2)))
            boxes += group_windows(corners, window)[0]
        height, width = arrays.get_leaf(self.model.object).shape[-2:]
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
    lens: Any
    positions: Any
    rules: Any
    most: Any
