"""Newton steps of many batches on a GPU by fused kernels, recorded once and launched again for each batch."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from phaseloom.fitting.newton import GaussNewton
from phaseloom.physics.gpu.source import plan_kernels
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.arrays import get_leaf, is_plain_experiment
from phaseloom.ptycho.newton.gpu_kernels import Arguments, KernelLauncher, load_kernels
from phaseloom.ptycho.newton.steps import (
    MAX_NUMBER_STEP,
    MAX_POSITION_STEP,
    CoupledStep,
    PixelStep,
    PositionStep,
    UniformStep,
)
from phaseloom.ptycho.newton.together import BatchRun, StepsTogether
from phaseloom.ptycho.noise import find_compiled_form

__all__ = ["GpuSteps"]

STORED_TYPES = ("uint8", "int8", "uint16", "int16", "float32")
"""Counts as kernels read them."""

KNOBS = 7
"""Numbers that batches differ by, of those that kernels of a processor know."""

FOUND = 5
"""Numbers that are found of a batch: its loss, and sums of gradients."""

BATCHES_OF_ROOM = 64
"""Batches for which there is room at least, so that epochs of as many use the same graph."""

MAX_MEMORY_SHARE = 0.5
"""Of a GPU's free memory that waves of a batch may take."""

THREADS = 256
"""Threads of a block that moves numbers."""

BLOCKS_FOR_PROCESSOR = 4
"""Blocks that keep a multiprocessor busy."""

BLOCKS_THAT_ADD = 8
"""Blocks for a multiprocessor where each adds to the same number, one after the other."""


class GpuSteps(StepsTogether[KernelLauncher]):
    """Steps on a GPU. Sums of a batch are made in any order, so that two runs differ by rounding.

    They serve a far field, pixels of one state, complex ones or phases, a probe of pixels, positions and an
    affine map of them, amplitude or Poisson noise, and patterns that fit on the GPU.
    """

    def __init__(self, model: Ptychography, likelihood: Likelihood, optimizer: GaussNewton):
        super().__init__(model, likelihood, optimizer)
        self._held: dict[str, Tensor] = {}
        self._recorded: dict[bytes, Callable[[], None]] = {}

    def _prepare(self) -> KernelLauncher | None:
        """The kernels for windows of this size."""
        model = self.model
        plain = (
            self._has_plain_objective()
            and is_plain_experiment(model)
            and type(model.probe) is Probe
            and model.probe.is_plain()
            and hasattr(get_leaf(model.object), "touched")
            and model.scan.start.dtype == model.probe.relative.real.dtype == torch.float32
        )
        window = (model.object.window[0], model.object.window[1])
        return load_kernels(window, model.scan.start.device) if plain else None

    def _list_known_parts(self) -> dict[nn.Parameter, tuple[str, type[Any]]]:
        """See `StepsTogether`."""
        model = self.model
        assert isinstance(model.probe, Probe)
        return {
            get_leaf(model.object): ("object", PixelStep),
            model.probe.relative: ("probe", UniformStep),
            model.scan.offsets: ("positions", PositionStep),
            model.scan.affine: ("affine", CoupledStep),
        }

    def _run(self, prepared: KernelLauncher, run: BatchRun) -> Tensor | None:
        """See `StepsTogether`."""
        device = self.model.scan.start.device
        most = int(run.sizes.max())
        window = (self.model.object.window[0], self.model.object.window[1])
        if any(len(several) > 1 for several in run.pieces) or not self._fits(most, window):
            return None
        counts = self.likelihood.measured.list_on_device(device)
        if counts is None:
            return None
        rows = run.index.to(device)
        patterns, stored = counts
        if stored.name not in STORED_TYPES:
            return None
        arguments = Arguments(stored=STORED_TYPES.index(stored.name), patterns=most)
        arguments.counts = patterns.patterns.data_ptr()
        self._give_batches(arguments, run, rows, rows if patterns.place is None else patterns.place[rows])
        self._give_images(arguments, run)
        self._give_detector(arguments)
        self._give_positions(arguments, run)
        arguments.moves_object = "object" in run.parts
        arguments.moves_beam = bool(run.parts.keys() - {"object"})
        update = self._record(prepared, arguments)
        for _ in run.sizes:
            update()
        self._take_probe(run)
        return self._held["found"].view(-1, FOUND)[: len(run.sizes)].clone()

    def _fits(self, most: int, window: tuple[int, int]) -> bool:
        """Whether waves of a batch fit into the memory of the GPU."""
        leaf = get_leaf(self.model.object)
        numbers = most * math.prod(window) * self._count_modes()
        kept = self._held.get("wave")
        if leaf.device.type != "cuda" or (kept is not None and len(kept) >= numbers):
            return True
        needed = 8 * numbers * (1 + leaf.shape[1])
        return needed <= MAX_MEMORY_SHARE * torch.cuda.mem_get_info(leaf.device)[0]

    def _count_modes(self) -> int:
        assert isinstance(self.model.probe, Probe)
        return len(self.model.probe.relative)

    def _hold(self, name: str, value: Tensor) -> int:
        """Address of a copy that stays where it is as long as the shape does."""
        value = value.detach()
        kept = self._held.get(name)
        if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
            self._held[name] = value.clone(memory_format=torch.contiguous_format)
        else:
            kept.copy_(value)
        return self._held[name].data_ptr()

    def _make_room(self, name: str, size: int, dtype: torch.dtype, *, zero: bool = False) -> int:
        """Address of room for so many numbers; zero when it is new."""
        kept = self._held.get(name)
        if kept is None or len(kept) < size:
            device = self.model.scan.start.device
            self._held[name] = torch.zeros(size, dtype=dtype, device=device)
        elif zero:
            kept.zero_()
        return self._held[name].data_ptr()

    def _give_batches(self, arguments: Arguments, run: BatchRun, index: Tensor, rows: Tensor) -> None:
        """Which patterns are in which batch, and the numbers that batches differ by."""
        count = len(run.sizes)
        knobs = torch.from_numpy(self._make_knobs(run.parts, run.sizes)[:, :KNOBS]).float()
        first = torch.from_numpy(np.concatenate([[0], np.cumsum(run.sizes)])).int()
        many, some = len(self.model.scan.start), max(count, BATCHES_OF_ROOM)
        arguments.found = self._make_room("found", FOUND * some, torch.float64, zero=True)
        rooms = {"index": (index, many), "rows": (rows, many)}
        rooms |= {"first": (first, some + 1), "knobs": (knobs.flatten(), KNOBS * some)}
        for name, (value, room) in rooms.items():
            setattr(arguments, name, self._make_room(name, room, value.dtype))
            self._held[name][: len(value)].copy_(value)
        arguments.batch = self._make_room("batch", 1, torch.int32, zero=True)
        arguments.box = self._hold(
            "box", torch.tensor([1 << 30, 0] * 2, dtype=torch.int32, device=rows.device)
        )

    def _give_images(self, arguments: Arguments, run: BatchRun) -> None:
        """Object and modes, their velocities and curvatures, and room for the waves."""
        model = self.model
        probe = model.probe
        assert isinstance(probe, Probe)
        modes = self._count_modes()
        pixels = math.prod(model.object.window)
        self._give_object(arguments, run)
        arguments.modes = modes
        waves = arguments.patterns * modes * pixels
        arguments.wave = self._make_room("wave", waves, torch.complex64)
        arguments.incident = self._make_room("incident", arguments.slices * waves, torch.complex64)
        unit = float(probe.scale) * pixels**-1.5
        arguments.probe_unit = float(probe.scale) ** 2 / pixels**2
        arguments.spectrum = self._hold("spectrum", torch.fft.fft2(probe.relative) * unit)
        arguments.spectrum_slope = self._make_room("spectrum_slope", modes * pixels, torch.complex64)
        if "probe" in run.parts:
            speed = self.optimizer.get_velocity(probe.relative)
            arguments.spectrum_speed = self._hold("spectrum_speed", torch.fft.fft2(speed) * unit)
        flights = [kernel.expand(1, 1, 1, *model.object.window)[0, 0, 0] for kernel in self._list_flights()]
        if flights:
            arguments.flights = self._hold("flights", torch.stack(flights) / pixels)

    def _give_object(self, arguments: Arguments, run: BatchRun) -> None:
        """Transmission, or the phases that it follows from, with velocity, gradient and curvature."""
        thing = self.model.object
        leaf = get_leaf(thing)
        _, arguments.slices, arguments.tall, arguments.broad = leaf.shape
        arguments.phases = thing.kind == "phase"
        name = "phase" if arguments.phases else "object"
        setattr(arguments, name, leaf.data_ptr())
        if arguments.phases:
            arguments.object = self._hold("transmission", thing.transmission())
        setattr(arguments, f"{name}_slope", self._make_room(f"{name}_slope", leaf.numel(), leaf.dtype))
        if (part := run.parts.get("object")) is not None:
            setattr(arguments, f"{name}_speed", self.optimizer.get_velocity(part.parameter).data_ptr())
            arguments.wide = self._hold("wide", part.rule.wide.to(torch.float32))
            arguments.lone = self._hold("lone", part.rule.lone.to(torch.float32))

    def _list_flights(self) -> list[Tensor]:
        """Kernels of the gaps."""
        start = self.model.scan.start
        return self.model.propagator.gap_kernels(torch.zeros(1, dtype=torch.long, device=start.device))

    def _give_detector(self, arguments: Arguments) -> None:
        """What stands between waves and the loss."""
        noise = find_compiled_form(self.likelihood.divergence)
        assert noise is not None
        arguments.noise = int(noise.kind == "poisson")
        arguments.floor, arguments.limit = noise.floor, noise.limit
        arguments.level = self.likelihood.floor
        detector = self.model.detector
        arguments.weights = detector.weights.data_ptr()
        for name, field in detector.fields().items():
            if field is not None:
                whole = field.expand(self.model.object.window).to(torch.float32)
                setattr(arguments, name, self._hold(name, whole))

    def _give_positions(self, arguments: Arguments, run: BatchRun) -> None:
        """Positions, their map, and how both move."""
        scan = self.model.scan
        map_ = scan.split_map()
        half, _, room = (one.long().tolist() for one in scan.bounds())
        arguments.half_y, arguments.half_x = half
        arguments.room_y, arguments.room_x = room
        arguments.reach, arguments.unit = map_.reach, float(scan.step)
        arguments.most_shift, arguments.most_number = MAX_POSITION_STEP, MAX_NUMBER_STEP
        arguments.offsets, arguments.affine = scan.offsets.data_ptr(), scan.affine.data_ptr()
        for name, value in {"arm": map_.arm, "fixed": map_.fixed, "turned": map_.turned}.items():
            setattr(arguments, name, self._hold(name, value))
        if (part := run.parts.get("positions")) is not None:
            prior = part.rule.prior
            arguments.inverse = self._hold("inverse", part.rule.inverse)
            centre = torch.zeros_like(scan.offsets) if prior is None else prior.centre
            arguments.centre = self._hold("centre", centre)
        if (part := run.parts.get("affine")) is not None:
            arguments.affine_speed = self.optimizer.get_velocity(part.parameter).data_ptr()
            arguments.affine_inverse = self._hold("affine_inverse", part.rule.inverse)
        most = arguments.patterns
        height, width = self.model.object.window
        for name, numbers in {"ramps_y": height, "ramps_x": width, "rests": 1}.items():
            setattr(arguments, name, self._make_room(name, most * numbers, torch.complex64))
        arguments.corners = self._make_room("corners", 2 * most, torch.int32)

    def _record(self, kernels: KernelLauncher, arguments: Arguments) -> Callable[[], None]:
        """One update, ready to be made again and again."""
        key = bytes(arguments)
        if key not in self._recorded:
            while len(self._recorded) > 2:
                self._recorded.pop(next(iter(self._recorded)))
            update = _Update(kernels, arguments, self.model.object.window)
            self._recorded[key] = kernels.record(update)
        return self._recorded[key]

    def _take_probe(self, run: BatchRun) -> None:
        """The modes and their velocity as they are now."""
        if "probe" not in run.parts:
            return
        probe = self.model.probe
        assert isinstance(probe, Probe)
        unit = float(probe.scale) * math.prod(self.model.object.window) ** -1.5
        probe.relative.copy_(torch.fft.ifft2(self._held["spectrum"] / unit))
        speed = self.optimizer.get_velocity(probe.relative)
        speed.copy_(torch.fft.ifft2(self._held["spectrum_speed"] / unit))


class _Update:
    """Launches of an update, in order."""

    def __init__(self, kernels: KernelLauncher, arguments: Arguments, window: Any):
        plan = plan_kernels((window[0], window[1]))
        assert plan is not None
        self.kernels = kernels
        self.arguments = arguments
        self.plan = plan
        self.row_blocks = window[0] // plan.lines
        self.column_blocks = window[1] // plan.abreast

    def __call__(self) -> None:
        """Queue them."""
        given = self.arguments
        goes_back = given.moves_object or given.moves_beam
        self.kernels.launch("place", (given.patterns, 1, 1), 128, given)
        self._columns("enter", given.patterns)
        for slice_ in range(given.slices):
            if slice_:
                self._columns("fly_on", given.patterns, slice_ - 1)
            self._rows("transmit", given.modes, slice_)
        grid = (self.column_blocks, given.patterns, 1)
        self.kernels.launch("detect", grid, self.plan.column_threads, given)
        if goes_back:
            self._go_back()
        if given.moves_object:
            wanted = BLOCKS_THAT_ADD * self.kernels.processors
            blocks = min(-(-given.tall * given.broad // THREADS), -(-wanted // given.slices))
            self.kernels.launch("step_object", (blocks, given.slices, 1), THREADS, given)
        if given.moves_beam:
            numbers = given.modes * self.plan.rows.length * self.plan.columns.length
            self.kernels.launch("step_probe", (-(-numbers // THREADS), 1, 1), THREADS, given)
        threads = min(THREADS, 1 << max(5, (given.patterns - 1).bit_length()))
        self.kernels.launch("step_positions", (1, 1, 1), threads, given)

    def _go_back(self) -> None:
        """From the detector to the probe, as far as somebody asks for it."""
        given = self.arguments
        wanted = BLOCKS_FOR_PROCESSOR * self.kernels.processors
        groups = min(given.modes, -(-wanted // (self.row_blocks * given.patterns)))
        groups = next(one for one in range(groups, given.modes + 1) if given.modes % one == 0)
        for slice_ in reversed(range(given.slices)):
            self._rows("transmit_back_phases" if given.phases else "transmit_back", groups, slice_)
            if slice_:
                self._columns("fly_back", given.patterns, slice_ - 1)
        if given.moves_beam:
            some = min(given.patterns, -(-wanted // (self.column_blocks * given.modes)))
            self._columns("leave", some)

    def _rows(self, name: str, modes: int, slice_: int) -> None:
        grid = (self.row_blocks, modes, self.arguments.patterns)
        self.kernels.launch(name, grid, self.plan.row_threads, self.arguments, slice_)

    def _columns(self, name: str, patterns: int, *gap: int) -> None:
        grid = (self.column_blocks, self.arguments.modes, patterns)
        self.kernels.launch(name, grid, self.plan.column_threads, self.arguments, *gap)
