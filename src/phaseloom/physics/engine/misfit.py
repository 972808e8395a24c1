"""`phaseloom.physics.adjoint.far_waves` and `misfit` in one compiled call, for autograd."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from phaseloom.physics.fused_kernels import WindowLayout, has_numba
from phaseloom.physics.patches import gradient_target
from phaseloom.physics.windowed_transmission import GradientSink, HostWindows, layout_in_boxes

__all__ = ["PixelNoise", "WaveLayout", "can_compile", "compiled_misfit", "lay_out_waves", "leave_out"]
__all__ += ["list_compile_errors", "load_amplitudes", "load_steps", "name_noise", "view_real"]


log = logging.getLogger(__name__)

_BROKEN: set[torch.dtype] = set()
"""Real types for which the kernels could not be compiled."""


class PixelNoise(NamedTuple):
    """A divergence that the kernels know; see `phaseloom.ptycho.noise`."""

    kind: Literal["amplitude", "poisson"]
    floor: float
    limit: float


@lru_cache(maxsize=1)
def _load_kernels() -> ModuleType | None:
    """``None`` without numba; its inner parts, which the engine needs, may be others one day."""
    if not has_numba():
        return None
    try:
        from phaseloom.physics.engine import kernels
    except ImportError:
        return None
    return kernels


def load_steps() -> ModuleType:
    """Kernels of whole steps, where there are any of the misfit."""
    from phaseloom.physics.engine import steps

    return steps


def load_amplitudes() -> ModuleType:
    """Kernels of expected amplitudes, where there are any of the misfit."""
    from phaseloom.physics.engine import amplitudes

    return amplitudes


def list_compile_errors() -> tuple[type[Exception], ...]:
    """What numba raises where it cannot compile; nothing is compiled before it is called."""
    from numba.core.errors import NumbaError

    return (NumbaError,)


class WaveLayout(NamedTuple):
    """How waves of a window lie in planes; see `phaseloom.physics.engine.kernels`.

    Attributes:
        axes: transforms along rows and columns, as kernels want them.
        sizes: height, width, lanes, and numbers from row to row in real and in reciprocal space.
        places: row of each frequency, of the rows and columns of a plane.
        place: pixel of the pattern at each place of a plane in reciprocal space.
        pixel: the same without margins, strip by strip: a vector of rows, column by column.
        own: places that are pixels of the pattern, and which.
        frequencies: of the rows and columns of a plane, ``2 pi`` times cycles per pixel.
    """

    axes: tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]
    sizes: tuple[int, int, int, int, int]
    places: tuple[np.ndarray, np.ndarray]
    place: np.ndarray
    pixel: np.ndarray
    own: tuple[Tensor, Tensor]
    frequencies: tuple[np.ndarray, np.ndarray]

    def count_numbers(self, slices: int, modes: int) -> int:
        """Numbers of a workspace; see `phaseloom.physics.engine.kernels.model_batch`."""
        height, width, lanes, step, back = self.sizes
        space, plane = height * step, width * back
        return (
            2 * modes * (slices * space + 3 * plane)
            + 2 * space
            + 2 * max(height, width) * lanes
            + height * width
        )

    def make_workspace(self, slices: int, modes: int) -> np.ndarray:
        """Room for the waves of a pattern: PyTorch lets it begin with a line of the cache."""
        real = torch.from_numpy(self.frequencies[0]).dtype
        return torch.empty(self.count_numbers(slices, modes), dtype=real).numpy()

    def make_ramps(self) -> tuple[np.ndarray, ...]:
        """Room for the ramps of a pattern."""
        height, width, *_ = self.sizes
        real = torch.from_numpy(self.frequencies[0]).dtype
        return tuple(torch.empty(n, dtype=real).numpy() for n in (height, height, width, width))

    def arrange(self, field: Tensor | None) -> np.ndarray:
        """A field ``(..., y, x)`` in reciprocal space in the order of planes; empty for ``None``."""
        if field is None:
            return np.zeros(0, self.frequencies[0].dtype)
        real = torch.from_numpy(self.frequencies[0]).dtype
        return field.detach().to(real).flatten(-2)[..., torch.from_numpy(self.place)].numpy()

    def arrange_flights(self, flights: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Real and imaginary parts of flights over the number of pixels."""
        height, width, *_ = self.sizes
        if not flights:
            none = np.zeros((0, 0), self.frequencies[0].dtype)
            return none, none
        every = torch.stack([one.detach().reshape(height, width) / (height * width) for one in flights])
        return self.arrange(every.real), self.arrange(every.imag)

    def arrange_counts(self, counts: Float[Tensor, "n y x"]) -> np.ndarray:
        """Patterns in the order of planes, without their margin."""
        return counts.flatten(1).index_select(1, torch.from_numpy(self.pixel)).numpy()


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)
def lay_out_waves(shape: tuple[int, int], dtype: torch.dtype) -> WaveLayout | None:
    """The layout of waves of a shape and real type; ``None`` of sides for which there are no kernels."""
    from phaseloom.physics.engine.lanes import LANE_BYTES
    from phaseloom.physics.engine.transforms import make_axis

    real = np.dtype(np.float32 if dtype == torch.float32 else np.float64)
    lanes = LANE_BYTES // real.itemsize
    down, right = (make_axis(n, real) for n in shape)
    if down is None or right is None:
        return None
    height, width = shape
    step, back = (n if n // lanes % 2 else n + lanes for n in (width, height))
    place = np.zeros((width, back), np.int64)
    place[:, :height] = down.order * width + right.order[:, None]
    inside = np.zeros((width, back), bool)
    inside[:, :height] = True
    at = torch.from_numpy(np.flatnonzero(inside))
    place = place.ravel()
    signed = [(axis.order + n // 2) % n - n // 2 for axis, n in zip((down, right), shape, strict=True)]
    turns = [2 * np.pi * one / n for one, n in zip(signed, shape, strict=True)]
    return WaveLayout(
        (down[:3], right[:3]),
        (height, width, lanes, step, back),
        (np.argsort(down.order), np.argsort(right.order)),
        place,
        place.reshape(width, back)[:, :height].reshape(width, -1, lanes).swapaxes(0, 1).ravel(),
        (at, torch.from_numpy(place)[at]),
        (turns[0].astype(real), turns[1].astype(real)),
    )


class _CompiledMisfit(torch.autograd.Function):
    """The work of `compiled_misfit`: gradients are found together with the value, for a factor of one."""

    @staticmethod
    def forward(
        ctx: Any,
        modes: Tensor,
        rest: Tensor,
        weight: Tensor,
        background: Tensor | None,
        work: "_Batch",
        *leaves: Tensor,
    ) -> Tensor:
        """Leaves come last."""
        of_modes, of_rest, of_weight, of_background, _, *of_leaves = ctx.needs_input_grad
        ctx.work = work
        ctx.set_materialize_grads(False)
        wanted = any(of_leaves), of_modes or of_rest, of_weight or of_background
        total, ctx.found = work.run(modes, rest, weight, background, wanted)
        return modes.real.new_tensor(total)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - once_differentiable has no types
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Scale what was found."""
        (factor,) = grads
        *found, sink = ctx.found
        wanted = ctx.needs_input_grad
        scaled = [one * factor if want else None for one, want in zip(found, wanted[:4], strict=True)]
        return *scaled, None, *ctx.work.return_gradients(sink, float(factor), wanted[5:])


class _Batch:
    """What the kernels need of a batch that autograd does not look at."""

    def __init__(
        self,
        layout: WaveLayout,
        mosaic: HostWindows,
        flights: tuple[np.ndarray, np.ndarray],
        counts: Tensor,
        fields: tuple[np.ndarray, np.ndarray],
        noise: PixelNoise,
    ):
        self.layout = layout
        self.mosaic = mosaic
        self.flights = flights
        self.counts = counts
        self.fields = fields
        self.noise = noise

    def run(
        self, modes: Tensor, rest: Tensor, weight: Tensor, background: Tensor | None, wanted: Sequence[bool]
    ) -> tuple[float, list[Any]]:
        """The misfit, and gradients of modes, shifts, weights, background and, in a sink, of the leaves."""
        kernels = _load_kernels()
        assert kernels is not None
        layout = self.layout
        slices = self.mosaic.slices
        plane = len(layout.place)
        real = modes.real.dtype
        workspace = layout.make_workspace(slices, len(modes))
        sink, start, row, sign, kind = self.make_sink(kernels, real, wanted[0])
        region = self.mosaic.region
        assert region is not None
        of_modes = torch.empty_like(modes) if wanted[1] else modes.new_empty(0, 0, 0)
        of_rest = torch.zeros_like(rest)
        of_weight = torch.zeros_like(weight)
        of_dark = rest.new_zeros(plane if wanted[2] and background is not None else 0)
        gradients = (view_real(of_modes), of_rest.numpy(), of_weight.numpy(), of_dark.numpy())
        dtype = workspace.dtype.type
        total = kernels.model_batch(
            layout.axes,
            layout.sizes,
            layout.places,
            workspace,
            layout.make_ramps(),
            view_real(modes.detach()),
            rest.detach().numpy(),
            layout.frequencies,
            view_real(self.mosaic.flat),
            (_starts(region, slices), region.row),
            self.flights,
            (
                self.counts.flatten(1).numpy(),
                layout.pixel,
                weight.detach().numpy(),
                self.fields[0],
                layout.arrange(background),
                self.fields[1],
            ),
            name_noise(self.noise),
            (sink.numpy() if not sink.is_complex() else view_real(sink), start, row, dtype(sign)),
            gradients,
            (kind, bool(wanted[1]), bool(wanted[2])),
        )
        dark = None
        if wanted[2] and background is not None:
            dark = torch.empty_like(background)
            dark.view(-1)[layout.own[1]] = of_dark[layout.own[0]]
        return total, [of_modes, of_rest, of_weight, dark, sink]

    def make_sink(
        self, kernels: ModuleType, real: torch.dtype, wanted: bool
    ) -> tuple[Tensor, np.ndarray, np.ndarray, int, int]:
        """Where the derivative goes: field, windows in it, sign of imaginary parts, and kind."""
        mosaic = self.mosaic
        if not wanted:
            none = np.zeros((mosaic.slices, len(mosaic.places)), np.int64)
            return torch.zeros(0, dtype=real), none, none[0], 1, kernels.NOTHING
        if len(mosaic.leaves) == 2:
            assert mosaic.region is not None
            starts = _starts(mosaic.region, mosaic.slices)
            return mosaic.make_field(), starts, mosaic.region.row, 1, kernels.COMPLEX
        boxes, member = mosaic.groups
        layout = layout_in_boxes(mosaic.places, np.array(boxes), np.array(member), mosaic.slices)
        size = mosaic.slices * sum((b - a) * (d - c) for a, b, c, d in boxes)
        leaf = mosaic.leaves[0]
        kind = kernels.COMPLEX if leaf.is_complex() else kernels.REAL
        field = torch.zeros(size, dtype=leaf.dtype)
        return field, _starts(layout, mosaic.slices), layout.row, -1, kind

    def return_gradients(self, sink: Tensor, factor: float, wanted: Sequence[bool]) -> list[Tensor | None]:
        """What autograd is given for each leaf."""
        mosaic = self.mosaic
        if not any(wanted):
            return [None] * len(mosaic.leaves)
        if len(mosaic.leaves) == 2:
            return mosaic.gradients(GradientSink(sink * factor, mosaic.region), wanted)
        into, own = gradient_target(mosaic.leaves[0], mosaic.boxes)
        first = 0
        for top, bottom, left, right in mosaic.boxes():
            target = into[..., top:bottom, left:right]
            last = first + mosaic.slices * (bottom - top) * (right - left)
            target.add_(sink[first:last].view(target.shape), alpha=factor)
            first = last
        return [None if own else into]


def name_noise(noise: PixelNoise, /) -> tuple[int, float, float]:
    """A divergence as kernels know it."""
    kernels = _load_kernels()
    assert kernels is not None
    return getattr(kernels, noise.kind.upper()), float(noise.floor), float(noise.limit)


def can_compile(shape: tuple[int, int], dtype: torch.dtype, /) -> bool:
    """Whether there are kernels for waves of a shape and real type: see `compiled_misfit`.

    Example:
        >>> can_compile((31, 32), torch.float32)
        False
    """
    if _load_kernels() is None or dtype not in (torch.float32, torch.float64) or dtype in _BROKEN:
        return False
    return lay_out_waves(shape, dtype) is not None


def compiled_misfit(
    modes: Complex[Tensor, "mode y x"],
    rest: Float[Tensor, "b 2"],
    mosaic: Any,
    flights: Sequence[Tensor],
    counts: Float[Tensor, "b y x"],
    weight: Float[Tensor, " b"],
    noise: PixelNoise,
    /,
    *,
    background: Float[Tensor, "y x"] | None = None,
    flat: Float[Tensor, "y x"] | None = None,
    mask: Bool[Tensor, "y x"] | None = None,
) -> Float[Tensor, ""] | None:
    """Misfit of a batch as `far_waves` and `misfit` of `phaseloom.physics.adjoint` have it, or ``None``.

    It is there for windows on a CPU whose sides are products of 2, 3 and 5, at least 16, and multiples of 16
    (of 8 in double precision), and for flights that are shared by all waves and not refined. Differentiable
    once, in the modes, ``rest``, ``weight``, ``background`` and the leaves of the mosaic.
    """
    layout = _find_layout(modes, mosaic, flights, (rest, counts, weight))
    if layout is None:
        return None
    kernels = layout.arrange_flights(flights)
    fields = (layout.arrange(flat), layout.arrange(mask))
    batch = _Batch(layout, mosaic, kernels, counts, fields, noise)
    try:
        return _CompiledMisfit.apply(modes, rest, weight, background, batch, *mosaic.leaves)
    except list_compile_errors() as problem:
        leave_out(modes.real.dtype, problem)
        return None


def leave_out(dtype: torch.dtype, problem: Exception, /) -> None:
    """Do without kernels of a real type from now on."""
    log.warning("the compiled engine is left out, as it does not compile here: %s", str(problem)[:300])
    _BROKEN.add(dtype)


def _find_layout(
    modes: Tensor, mosaic: Any, flights: Sequence[Tensor], others: Sequence[Tensor]
) -> WaveLayout | None:
    """How waves lie in planes, if the kernels can take them."""
    real = modes.real.dtype
    shape = modes.shape[-2], modes.shape[-1]
    if not isinstance(mosaic, HostWindows) or not can_compile(shape, real):
        return None
    if mosaic.flat.dtype != modes.dtype or any(
        one.dtype != real or not one.is_contiguous() for one in others
    ):
        return None
    if any(one.requires_grad or one.numel() != modes[0].numel() for one in flights):
        return None
    if not modes.is_contiguous() or modes.is_conj() or not modes.is_complex() or mosaic.flat.is_conj():
        return None
    return lay_out_waves(shape, real)


def _starts(layout: WindowLayout, slices: int) -> np.ndarray:
    """First pixel of the windows in each slice."""
    return layout.start + np.arange(slices)[:, None] * layout.layer


def view_real(wave: Tensor) -> np.ndarray:
    """Complex numbers as real and imaginary parts in turn."""
    return torch.view_as_real(wave).flatten(-2).numpy()
