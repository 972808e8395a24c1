"""The object as a batch sees it: transmission computed around its windows, gradients added where they are.

A mosaic is made of the object's leaves: ``(transmission,)`` complex, ``(phase,)`` in radian, or
``(amplitude, phase)``; each ``(slice, y, x)`` or, with a single state, ``(1, slice, y, x)``.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int, Num
from torch import Tensor

from phaseloom.physics.cache import TensorCache
from phaseloom.physics.fused_kernels import WindowLayout, get_compiled_kernels, sum_intensity, sum_modes
from phaseloom.physics.patches import Box, bounding_boxes, flat_index, gradient_target, group_windows

__all__ = ["TransmissionCache", "TransmissionWindows", "cut_windows", "transmission"]

Leaves = tuple[Tensor, ...]


class GradientSink(NamedTuple):
    """Where the derivative of the transmission goes.

    Attributes:
        field: one-dimensional; real when it is the phase's own gradient, else complex.
        layout: of the windows in it; ``None`` where windows are indexed.
        conjugate: it is autograd's gradient of the transmission, the conjugate of the derivative.
        returned: what autograd is given for the only leaf.
    """

    field: Tensor
    layout: WindowLayout | None
    conjugate: bool = False
    returned: Tensor | None = None


class TransmissionCache:
    """Remembers the transmission of a rectangle of the object until the object changes."""

    def __init__(self):
        self.cache: TensorCache[Tensor] = TensorCache()
        self.box: Box = (0, 0, 0, 0)

    def get_box(self, leaves: Leaves, box: Box, /) -> tuple[Tensor, Box]:
        """Transmission ``(slice, y, x)`` of a rectangle that holds ``box``, and that rectangle.

        It grows to what the batches of a scan have in common, for the next one will ask for much the same.
        """
        if not _is_inside(box, self.box) or not self.cache.is_fresh(*leaves):
            wide = _common_box(box, self.box)
            fits = wide[1] <= leaves[0].shape[-2] and wide[3] <= leaves[0].shape[-1]
            self.box = wide if fits and self.box[1] and _box_area(wide) <= 1.5 * _box_area(box) else box
            return self.cache.store(transmission(leaves, self.box), *leaves), self.box
        assert self.cache.value is not None
        return self.cache.value, self.box


class TransmissionWindows:
    """Windows of a transmission, through which waves ``(b, mode, y, x)`` pass.

    Attributes:
        leaves: what the object is made of.
        slices: their number.
        region: layout of the windows in the transmission that was computed.
    """

    region: WindowLayout | None = None

    def __init__(self, leaves: Leaves):
        self.leaves = leaves
        self.slices = leaves[0].shape[-3]

    def windows(self, slice_: int, /) -> Complex[Tensor, "b 1 y x"]:
        """Transmission of one slice in every window."""
        raise NotImplementedError

    def add(
        self, field: Num[Tensor, " all"], layout: WindowLayout | None, slice_: int, values: Tensor, /
    ) -> None:
        """Add values ``(b, y, x)`` to one slice of a flat field."""
        raise NotImplementedError

    @cached_property
    def object_layout(self) -> WindowLayout | None:
        """Layout of the windows in a field of the object's own shape."""
        return None

    def boxes(self) -> list[Box]:
        """Rectangles that hold all windows."""
        raise NotImplementedError

    def make_field(self) -> Complex[Tensor, " all"]:
        """Room for the derivative of the transmission that was computed."""
        raise NotImplementedError

    def split_field(self, field: Complex[Tensor, " all"], /) -> list[tuple[Box, Tensor]]:
        """Such a field as rectangles ``(slice, y, x)``."""
        raise NotImplementedError

    def transmit(self, wave: Tensor, slice_: int, out: Tensor, /) -> Tensor:
        """Waves behind one slice, written to ``out``."""
        return torch.mul(wave, self.windows(slice_), out=out)

    def backpropagate(
        self, wave: Tensor, incident: Tensor, slice_: int, sink: GradientSink | None, /
    ) -> Tensor:
        """Transpose of `transmit`, in place; the derivative of the transmission goes to the sink."""
        windows = self.windows(slice_)
        if sink is None:
            return wave.mul_(windows)
        if sink.field.is_complex():
            slope = sum_modes(wave * incident)
            self.add(sink.field, sink.layout, slice_, slope.conj() if sink.conjugate else slope)
            return wave.mul_(windows)
        wave.mul_(windows)
        self.add(sink.field, sink.layout, slice_, -torch.view_as_real(sum_modes(wave * incident))[..., 1])
        return wave

    def illuminate(self, light: Float[Tensor, "slice y x"], slice_: int, wave: Tensor, factor: float) -> None:
        """Add ``factor * sum_modes |wave|^2`` where the waves fall on one slice."""
        self.add(light.view(-1), self.object_layout, slice_, sum_intensity(wave).mul_(factor))

    def make_sink(self, wanted: Sequence[bool], /) -> GradientSink | None:
        """Where the derivative goes, if any leaf wants it: to a single leaf's gradient at once."""
        if not any(wanted):
            return None
        if len(self.leaves) == 2:
            return GradientSink(self.make_field(), self.region)
        leaf = self.leaves[0]
        into, own = gradient_target(leaf, self.boxes)
        return GradientSink(into.view(-1), self.object_layout, leaf.is_complex(), None if own else into)

    def gradients(self, sink: GradientSink | None, wanted: Sequence[bool], /) -> list[Tensor | None]:
        """What autograd is given for each leaf."""
        if sink is None:
            return [None] * len(self.leaves)
        if len(self.leaves) == 1:
            return [sink.returned]
        pairs = zip(self.leaves, wanted, strict=True)
        into = [gradient_target(leaf, self.boxes) if want else None for leaf, want in pairs]
        for (top, bottom, left, right), slope in self.split_field(sink.field):
            inside = (..., slice(top, bottom), slice(left, right))
            amplitude, phase = (leaf.detach()[inside].reshape(slope.shape) for leaf in self.leaves)
            turned = slope * torch.polar(torch.ones_like(phase), phase)
            for gradient, part in zip(into, (turned.real, -amplitude * turned.imag), strict=True):
                if gradient is not None:
                    gradient[0][inside] += part
        return [None if one is None or one[1] else one[0] for one in into]


class HostWindows(TransmissionWindows):
    """Windows are views of rectangles that lie one after the other in memory."""

    def __init__(
        self, leaves: Leaves, corner: Int[Tensor, "b 2"], window: tuple[int, int], cache: TransmissionCache
    ):
        super().__init__(leaves)
        self.places = corner.numpy()
        self.window = window
        height, width = leaves[0].shape[-2:]
        if leaves[0].is_complex():
            self.rectangles = [(0, height, 0, width)]
            self.flat = leaves[0].detach().reshape(-1)
            self.region = self.object_layout
            return
        boxes, member = self.groups
        if len(boxes) == 1:
            wave, around = cache.get_box(leaves, boxes[0])
            self.rectangles = [around]
            self.flat = wave.view(-1)
            self.region = _layout_in_box(self.places, around)
        else:
            self.rectangles = boxes
            cut = [[leaf.detach()[..., a:b, c:d].reshape(-1) for a, b, c, d in boxes] for leaf in leaves]
            self.flat = transmission(tuple(torch.cat(parts) for parts in cut))
            self.region = layout_in_boxes(self.places, np.array(boxes), np.array(member), self.slices)

    @cached_property
    def object_layout(self) -> WindowLayout:
        """Layout of the windows in a field of the object's own shape."""
        return _layout_in_box(self.places, (0, self.leaves[0].shape[-2], 0, self.leaves[0].shape[-1]))

    @cached_property
    def groups(self) -> tuple[list[Box], list[int]]:
        return group_windows(self.places, self.window)

    def boxes(self) -> list[Box]:
        """Rectangles that hold all windows."""
        return self.groups[0]

    def transmit(self, wave: Tensor, slice_: int, out: Tensor, /) -> Tensor:
        """Waves behind one slice, written to ``out``."""
        if loops := get_compiled_kernels(wave, self.flat, out):
            loops.multiply_windows(
                wave.numpy(), self.flat.numpy(), *_layout_of_slice(self.region, slice_), out.numpy()
            )
            return out
        return super().transmit(wave, slice_, out)

    def backpropagate(
        self, wave: Tensor, incident: Tensor, slice_: int, sink: GradientSink | None, /
    ) -> Tensor:
        """Transpose of `transmit`, in place; the derivative of the transmission goes to the sink."""
        loops = None if sink is None else get_compiled_kernels(wave, incident, self.flat, sink.field)
        if loops is None or sink is None:
            return super().backpropagate(wave, incident, slice_, sink)
        field = sink.field.numpy()
        given = (wave.numpy(), incident.numpy(), self.flat.numpy())
        if sink.field.is_complex():
            real = np.float32 if sink.field.dtype == torch.complex64 else np.float64
            sign = real(-1 if sink.conjugate else 1)
            loops.backpropagate_to_wave(
                *given,
                *_layout_of_slice(self.region, slice_),
                field,
                *_layout_of_slice(sink.layout, slice_),
                sign,
            )
        else:
            loops.backpropagate_to_phase(
                *given, *_layout_of_slice(self.region, slice_), field, *_layout_of_slice(sink.layout, slice_)
            )
        return wave

    def illuminate(self, light: Float[Tensor, "slice y x"], slice_: int, wave: Tensor, factor: float) -> None:
        """Add ``factor * sum_modes |wave|^2`` where the waves fall on one slice."""
        loops = get_compiled_kernels(wave, light)
        if loops is None or light.dtype != wave.real.dtype:
            super().illuminate(light, slice_, wave, factor)
            return
        field = light.view(-1).numpy()
        loops.add_illumination(
            wave.numpy(), field, *_layout_of_slice(self.object_layout, slice_), field.dtype.type(factor)
        )

    def windows(self, slice_: int, /) -> Complex[Tensor, "b 1 y x"]:
        """Copied side by side: on a CPU quicker than an index of every pixel."""
        return torch.stack(self._views(self.flat, self.region, slice_))[:, None]

    def add(
        self, field: Num[Tensor, " all"], layout: WindowLayout | None, slice_: int, values: Tensor, /
    ) -> None:
        """Window by window, in order, so that the sum is the same every time."""
        for view, value in zip(self._views(field, layout, slice_), values, strict=True):
            view.add_(value)

    def make_field(self) -> Complex[Tensor, " all"]:
        """Room for the derivative of the transmission that was computed."""
        return torch.zeros_like(self.flat)

    def split_field(self, field: Complex[Tensor, " all"], /) -> list[tuple[Box, Tensor]]:
        """Such a field as rectangles ``(slice, y, x)``."""
        sizes = [self.slices * _box_area(box) for box in self.rectangles]
        pairs = zip(self.rectangles, field.split(sizes), strict=True)
        return [(box, part.view(self.slices, box[1] - box[0], box[3] - box[2])) for box, part in pairs]

    def _views(self, field: Tensor, layout: WindowLayout | None, slice_: int) -> list[Tensor]:
        places = zip(*(places.tolist() for places in _layout_of_slice(layout, slice_)), strict=True)
        return [field.as_strided(self.window, (row, 1), start) for start, row in places]


class DeviceWindows(TransmissionWindows):
    """Windows are gathered by index, all at once, and nothing is read back from the device."""

    def __init__(self, leaves: Leaves, corner: Int[Tensor, "b 2"], window: tuple[int, int]):
        super().__init__(leaves)
        self.corner = corner
        self.window = window
        (self.height, self.width) = leaves[0].shape[-2:]
        self.index = flat_index(corner, window, self.width)
        shape = (self.slices, len(corner), *window)
        cut = tuple(leaf.detach().reshape(self.slices, -1)[:, self.index].view(shape) for leaf in leaves)
        self.transmitted = transmission(cut, None)

    def boxes(self) -> list[Box]:
        """The whole canvas, unless it is so large that reading the corners is quicker."""
        return bounding_boxes(self.corner, self.window, (self.height, self.width))

    def windows(self, slice_: int, /) -> Complex[Tensor, "b 1 y x"]:
        """Transmission of one slice in every window."""
        return self.transmitted[slice_][:, None]

    def add(
        self, field: Num[Tensor, " all"], layout: WindowLayout | None, slice_: int, values: Tensor, /
    ) -> None:
        """All windows at once."""
        area = self.height * self.width
        field[slice_ * area : (slice_ + 1) * area].index_add_(0, self.index, values.resolve_conj().flatten())

    def make_field(self) -> Complex[Tensor, " all"]:
        """Room for the derivative of the whole transmission."""
        return self.transmitted.new_zeros(self.slices * self.height * self.width)

    def split_field(self, field: Complex[Tensor, " all"], /) -> list[tuple[Box, Tensor]]:
        """Such a field as one rectangle ``(slice, y, x)``."""
        return [((0, self.height, 0, self.width), field.view(self.slices, self.height, self.width))]


def cut_windows(
    leaves: Leaves,
    corner: Int[Tensor, "b 2"],
    window: tuple[int, int],
    /,
    *,
    cache: TransmissionCache | None = None,
) -> TransmissionWindows:
    """The windows of a batch, by their top-left pixels (y, x).

    Args:
        leaves: see the top of this file.
        corner: all windows lie inside the object.
        window: pixels (y, x).
        cache: keeps what was computed for the next batch, which may see the same object.
    """
    if corner.device.type == "cpu":
        return HostWindows(leaves, corner, window, cache or TransmissionCache())
    return DeviceWindows(leaves, corner, window)


@torch.no_grad()
def transmission(leaves: Leaves, box: Box | None = None, /) -> Complex[Tensor, "*slice pixels"]:
    """Transmission of the leaves, in a rectangle if one is given.

    Example:
        >>> transmission((torch.zeros(1, 4, 4),), (0, 2, 1, 4)).shape
        torch.Size([1, 2, 3])
    """
    if box is not None:
        leaves = tuple(leaf[..., box[0] : box[1], box[2] : box[3]] for leaf in leaves)
    if leaves[0].is_complex():
        return leaves[0].detach()
    *amplitude, phase = leaves
    wave = torch.polar(amplitude[0] if amplitude else torch.ones_like(phase), phase)
    return wave.flatten(0, -3) if box is not None else wave


def _layout_of_slice(layout: WindowLayout | None, slice_: int) -> tuple[np.ndarray, np.ndarray]:
    """First pixel and pixels to the next row of the windows in one slice."""
    assert layout is not None
    return layout.start + slice_ * layout.layer, layout.row


def _layout_in_box(places: np.ndarray, box: Box) -> WindowLayout:
    """Windows in one rectangle ``(slice, y, x)``."""
    width = box[3] - box[2]
    area = _box_area(box)
    start = places[:, 0] * width + places[:, 1] - (box[0] * width + box[2])
    return WindowLayout(start, np.full(len(places), width), np.full(len(places), area))


def layout_in_boxes(places: np.ndarray, boxes: np.ndarray, member: np.ndarray, slices: int) -> WindowLayout:
    """Windows in rectangles ``(slice, y, x)`` that lie one after the other."""
    width = boxes[:, 3] - boxes[:, 2]
    area = (boxes[:, 1] - boxes[:, 0]) * width
    first = (np.cumsum(area) - area) * slices - boxes[:, 0] * width - boxes[:, 2]
    row = width[member]
    return WindowLayout(first[member] + places[:, 0] * row + places[:, 1], row, area[member])


def _box_area(box: Box) -> int:
    return (box[1] - box[0]) * (box[3] - box[2])


def _is_inside(box: Box, other: Box) -> bool:
    return other[0] <= box[0] and box[1] <= other[1] and other[2] <= box[2] and box[3] <= other[3]


def _common_box(box: Box, other: Box) -> Box:
    return min(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), max(box[3], other[3])
