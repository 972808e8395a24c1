"""Kernels with fewer transforms than those of `phaseloom.physics.engine.kernels`, to be priced beside them.

*Held*: waves of a mode at a shift, and their derivatives along it, are made once and lie in real space; what
uses them does without the transforms to and from the spectrum of the mode. *Narrow*: of the rows of a plane
(frequencies along y) those outside a band are zero; the ``kept`` ones that are not lie first, and strips
behind them are neither transformed nor written. All give the numbers of the engine's own (`check_held`,
`check_narrow`), so that prices are of the same work.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np
import torch

from phaseloom.physics.engine import kernels, lanes, transforms
from phaseloom.physics.engine.lanes import (
    add_pair,
    add_up,
    advance,
    fill,
    fill_like,
    load,
    load_imag,
    load_real,
    pick,
    store,
)
from phaseloom.physics.engine.misfit import WaveLayout, lay_out_waves
from phaseloom.physics.engine.transforms import transform, transform_back, transpose_strip

__all__ = ["PIECES", "Bench", "check_held", "check_narrow"]

ROW = 200
"""Pixels of the object from row to row."""

COUNTS = 20.0
"""Electrons in a pixel of a pattern."""

MANY = 8
"""Repetitions that tell whether numbers are right."""

compiled: Callable[..., Any] = numba.njit(error_model="numpy")
"""Not kept on disk, where a change of the engine's kernels would not be noticed."""


@compiled
@no_type_check
def hold_wave(mode, ramps, slopes, strip, held, layout, down, right):
    """A mode at a shift, and its derivatives along y and x, in three planes of real space."""
    height, width, count, step, _ = layout
    plane = 2 * height * step
    rows, columns, of_rows, of_columns = (ramps[0], ramps[1]), (ramps[2], ramps[3]), slopes[:2], slopes[2:]
    kernels._light_window(mode, rows, columns, strip, held, layout, right)
    kernels._light_window(mode, of_rows, columns, strip, advance(held, plane), layout, right)
    kernels._light_window(mode, rows, of_columns, strip, advance(held, 2 * plane), layout, right)
    for j in range(3):
        re = advance(held, j * plane)
        for x in range(0, width, count):
            transform_back(advance(re, height * step), re, x, step, down)


@compiled
@no_type_check
def pass_held(held, window, row, strip, wave, layout, down):
    """`_pass_slice` of a wave that is in real space already."""
    height, width, count, step, back = layout
    re, im = held, advance(held, height * step)
    strip_im = advance(strip, height * count)
    to_im = advance(wave, width * back)
    for x in range(0, width, count):
        for y in range(height):
            at = y * step + x
            wr, wi = load(re, at), load(im, at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            store(strip, y * count, wr * tr - wi * ti)
            store(strip_im, y * count, wr * ti + wi * tr)
        transform(strip, strip_im, 0, count, down)
        transpose_strip(strip, strip_im, 0, count, wave, to_im, x * back, back, height, count)


@compiled
@no_type_check
def leave_held(work, held, window, row, sink, slope, layout, down):
    """`_leave_slice` and `_leave_beam` of a held wave: its gradient is added up, the shift's is returned."""
    height, width, count, step, _ = layout
    plane = height * step
    field, first, next_, sign = sink
    signs = fill(sign)
    along_y, along_x = fill_like(work, 0.0), fill_like(work, 0.0)
    for x in range(0, width, count):
        transform_back(work, advance(work, plane), x, step, down)
        for y in range(height):
            at = y * step + x
            gr, gi = load(work, at), load(work, plane + at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            hr, hi = gr * tr - gi * ti, gr * ti + gi * tr
            pr, pi = load(held, at), load(held, plane + at)
            to = first + y * next_ + x
            add_pair(field, 2 * to, gr * pr - gi * pi, signs * (gr * pi + gi * pr))
            store(slope, at, load(slope, at) + hr)
            store(slope, plane + at, load(slope, plane + at) + hi)
            along_y = along_y + hr * load(held, 2 * plane + at) - hi * load(held, 3 * plane + at)
            along_x = along_x + hr * load(held, 4 * plane + at) - hi * load(held, 5 * plane + at)
    return add_up(along_y), add_up(along_x)


@compiled
@no_type_check
def return_held(slope, mode, ramps, wave, of_mode, turn, layout, down, right):
    """The gradient of a held wave to that of the spectrum of its mode; the former becomes zero."""
    height, width, count, step, back = layout
    plane = height * step
    im, to_im = advance(slope, plane), advance(wave, width * back)
    for x in range(0, width, count):
        transform(im, slope, x, step, down)
        transpose_strip(slope, im, x, step, wave, to_im, x * back, back, height, count)
    for at in range(0, 2 * plane, count):
        store(slope, at, fill_like(slope, 0.0))
    rows, columns = (ramps[0], ramps[1]), (ramps[2], ramps[3])
    kernels._leave_beam(wave, mode, rows, columns, of_mode, turn, layout, right)


@compiled
@no_type_check
def unpack_rows(re, im, x, step, band):
    """Rows of a strip to their own places, from the first ``kept`` ones; zero outside the band."""
    into, out_of, empty, _ = band
    zero = fill_like(re, 0.0)
    for j in range(len(empty)):
        store(re, empty[j] * step + x, zero)
        store(im, empty[j] * step + x, zero)
    for j in range(len(into)):
        here, there = into[j] * step + x, out_of[j] * step + x
        store(re, there, load(re, here))
        store(im, there, load(im, here))
        store(re, here, zero)
        store(im, here, zero)


@compiled
@no_type_check
def pack_rows(re, im, x, step, band):
    """The rows of a band in a strip to the first ``kept`` places."""
    into, out_of, _, _ = band
    for j in range(len(into)):
        here, there = into[j] * step + x, out_of[j] * step + x
        store(re, here, load(re, there))
        store(im, here, load(im, there))


@compiled
@no_type_check
def pass_narrow(here, window, row, strip, wave, layout, down, band, ends):
    """`_pass_slice` whose wave comes (first of ``ends``) or goes on (second) with the rows of a band."""
    height, width, count, step, back = layout
    re, im = here, advance(here, height * step)
    strip_im = advance(strip, height * count)
    to_im = advance(wave, width * back)
    for x in range(0, width, count):
        if ends[0]:
            unpack_rows(re, im, x, step, band)
        transform_back(im, re, x, step, down)
        for y in range(height):
            at = y * step + x
            wr, wi = load(re, at), load(im, at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            store(strip, y * count, wr * tr - wi * ti)
            store(strip_im, y * count, wr * ti + wi * tr)
        transform(strip, strip_im, 0, count, down)
        rows = height
        if ends[1]:
            pack_rows(strip, strip_im, 0, count, band)
            rows = band[3]
        transpose_strip(strip, strip_im, 0, count, wave, to_im, x * back, back, rows, count)


@compiled
@no_type_check
def fly_narrow(wave, flight, there, layout, right, forth, band):
    """`_fly` of the rows of a band."""
    height, width, count, step, back = layout
    re, im = wave, advance(wave, width * back)
    to_im = advance(there, height * step)
    first, second = (re, im) if forth else (im, re)
    for y in range(0, band[3], count):
        transform(first, second, y, back, right)
        kernels._multiply_strip(re, im, flight, y, width, back)
        transform_back(second, first, y, back, right)
        transpose_strip(re, im, y, back, there, to_im, y * step, step, width, count)


@compiled
@no_type_check
def leave_narrow(work, here, window, row, sink, wave, layout, down, band, ends):
    """`_leave_slice` with the ``ends`` of `pass_narrow`."""
    height, width, count, step, back = layout
    re, im = work, advance(work, height * step)
    in_re, in_im = here, advance(here, height * step)
    to_im = advance(wave, width * back)
    field, first, next_, sign = sink
    signs = fill(sign)
    for x in range(0, width, count):
        if ends[1]:
            unpack_rows(re, im, x, step, band)
        transform_back(re, im, x, step, down)
        for y in range(height):
            at = y * step + x
            gr, gi = load(re, at), load(im, at)
            tr, ti = load_real(window, y * row + 2 * x), load_imag(window, y * row + 2 * x)
            store(re, at, gr * tr - gi * ti)
            store(im, at, gr * ti + gi * tr)
            pr, pi = load(in_re, at), load(in_im, at)
            to = first + y * next_ + x
            add_pair(field, 2 * to, gr * pr - gi * pi, signs * (gr * pi + gi * pr))
        transform(im, re, x, step, down)
        rows = height
        if ends[0]:
            pack_rows(re, im, x, step, band)
            rows = band[3]
        transpose_strip(re, im, x, step, wave, to_im, x * back, back, rows, count)


@compiled
@no_type_check
def light_narrow(mode, rows, columns, strip, there, layout, right, band):
    """`_light_window` of a spectrum that has the rows of a band."""
    height, width, count, step, back = layout
    plane = width * back
    im, to_im = advance(strip, width * count), advance(there, height * step)
    for y in range(0, band[3], count):
        rr, ri = load(rows[0], y), load(rows[1], y)
        for x in range(width):
            cr, ci = fill(pick(columns[0], x)), fill(pick(columns[1], x))
            tr, ti = rr * cr - ri * ci, rr * ci + ri * cr
            mr, mi = load(mode, x * back + y), load(mode, plane + x * back + y)
            store(strip, x * count, mr * tr - mi * ti)
            store(im, x * count, mr * ti + mi * tr)
        transform_back(im, strip, 0, count, right)
        transpose_strip(strip, im, 0, count, there, to_im, y * step, step, width, count)


@compiled
@no_type_check
def leave_beam_narrow(wave, mode, rows, columns, slope, turn, layout, right, band):
    """`_leave_beam` of the rows of a band."""
    _, width, count, step, back = layout
    # the engine's loop ends where its height does; no address in it depends on the height
    narrow = (band[3], width, count, step, back)
    return kernels._leave_beam(wave, mode, rows, columns, slope, turn, narrow, right)


@compiled
@no_type_check
def repeat_piece(piece, many, layout, axes, room, more, ramps, frequencies, places, flights, band, noise):
    """A piece of the work on a wave, again and again; misfit and slopes along the shift of the last one."""
    height, width, _, step, _ = layout
    down, right = transforms.locate_axis(*axes[0]), transforms.locate_axis(*axes[1])
    incident, far, beam, slope, work, strip, seen = kernels.locate_planes(room, 2, 1, layout)
    at = (
        lanes.address(ramps[0]),
        lanes.address(ramps[1]),
        lanes.address(ramps[2]),
        lanes.address(ramps[3]),
    )
    rows, columns = (at[0], at[1]), (at[2], at[3])
    of_shift = (
        lanes.address(ramps[4]),
        lanes.address(ramps[5]),
        lanes.address(ramps[6]),
        lanes.address(ramps[7]),
    )
    turn = lanes.address(frequencies[0]), lanes.address(frequencies[1])
    flight = lanes.address(flights[0]), lanes.address(flights[1])
    none = np.zeros(0, room.dtype)
    held = lanes.address(more[0])
    of_held = lanes.address(more[1])
    window = lanes.address(more[2])
    sink = lanes.address(more[3]), 0, ROW, room.dtype.type(-1)
    there = advance(incident, 2 * height * step)
    given = none, none, none
    misfit, along = (0.0, 0.0), (0.0, 0.0)
    for _ in range(many):
        if piece in (0, 1, 3):
            kernels.fill_ramp(0.25, places[0], height, ramps[0], ramps[1])
            kernels.fill_ramp(-0.25, places[1], width, ramps[2], ramps[3])
        if piece == 0:  # a pattern of one slice
            kernels._light_window(beam, rows, columns, strip, incident, layout, right)
            kernels._pass_slice(incident, window, 2 * ROW, strip, far, layout, down)
        elif piece == 1:  # the same, of a spectrum with the rows of a band
            for j in range(len(band[0])):
                ramps[0][band[0][j]] = ramps[0][band[1][j]]
                ramps[1][band[0][j]] = ramps[1][band[1][j]]
            light_narrow(beam, rows, columns, strip, incident, layout, right, band)
            pass_narrow(incident, window, 2 * ROW, strip, far, layout, down, band, (True, False))
        elif piece == 2:  # the same, of a wave that is held
            pass_held(held, window, 2 * ROW, strip, far, layout, down)
        elif piece == 3:  # making a held wave
            for j in range(height):
                ramps[4][j] = frequencies[0][j] * ramps[1][j]
                ramps[5][j] = -frequencies[0][j] * ramps[0][j]
            for j in range(width):
                ramps[6][j] = frequencies[1][j] * ramps[3][j]
                ramps[7][j] = -frequencies[1][j] * ramps[2][j]
            hold_wave(beam, at, of_shift, strip, held, layout, down, right)
        elif piece == 4:  # and bringing its gradient back
            return_held(of_held, beam, at, far, slope, turn, layout, down, right)
        elif piece == 5:  # a slice and a flight, there and back
            kernels._pass_slice(incident, window, 2 * ROW, strip, far, layout, down)
            kernels._fly(far, flight, there, layout, right, True)
            kernels._leave_slice(work, incident, window, 2 * ROW, sink, kernels.COMPLEX, far, layout, down)
            kernels._fly(far, flight, work, layout, right, False)
            incident, there = there, incident
        elif piece == 6:  # the same with the rows of a band
            pass_narrow(incident, window, 2 * ROW, strip, far, layout, down, band, (True, True))
            fly_narrow(far, flight, there, layout, right, True, band)
            leave_narrow(work, incident, window, 2 * ROW, sink, far, layout, down, band, (True, True))
            fly_narrow(far, flight, work, layout, right, False, band)
            incident, there = there, incident
        if piece < 3:
            misfit = kernels._meet_detector(
                far, work, seen, 1, room.dtype.type(1), given, none, noise, layout, (1, True, False), right
            )
        if piece == 0:
            kernels._leave_slice(work, incident, window, 2 * ROW, sink, kernels.COMPLEX, far, layout, down)
            along = kernels._leave_beam(far, beam, rows, columns, slope, turn, layout, right)
        elif piece == 1:
            leave_narrow(work, incident, window, 2 * ROW, sink, far, layout, down, band, (True, False))
            along = leave_beam_narrow(far, beam, rows, columns, slope, turn, layout, right, band)
        elif piece == 2:
            along = leave_held(work, held, window, 2 * ROW, sink, of_held, layout, down)
    return misfit[0], along[0], along[1]


PIECES = (
    "a pattern of one slice and mode",
    "the same, spectrum of the mode in a band",
    "the same, wave of the mode held",
    "making a held wave and its derivatives",
    "bringing the gradient of a held wave back",
    "a slice and a flight, there and back",
    "the same, wave in a band between slices",
)


class Band(NamedTuple):
    """Rows of a plane that are not zero, by their places: see `unpack_rows`."""

    into: np.ndarray
    out_of: np.ndarray
    empty: np.ndarray
    kept: int


def make_band(layout: WaveLayout, highest: int) -> Band:
    """Frequencies up to ``highest``, in as many strips as they take."""
    height, _, count, *_ = layout.sizes
    order = np.argsort(layout.places[0])
    inside = np.abs((order + height // 2) % height - height // 2) <= highest
    kept = min(height, -(-int(inside.sum()) // count) * count)
    out_of = np.flatnonzero(inside & (np.arange(height) >= kept))
    into = np.flatnonzero(~inside & (np.arange(height) < kept))[: len(out_of)]
    empty = np.flatnonzero(~inside & (np.arange(height) >= kept))
    return Band(into, out_of, empty, kept)


class Bench:
    """All arrays of the pieces for waves of ``side x side``, with rows up to a frequency.

    The mode has these rows alone, and so have waves between slices.
    """

    def __init__(self, side: int, highest: int, dtype: torch.dtype = torch.float32):
        layout = lay_out_waves((side, side), dtype)
        assert layout is not None
        self.layout = layout
        self.band = make_band(layout, highest)
        self.dtype = dtype
        self.highest = highest
        draw = np.random.default_rng(0)
        width, back = layout.sizes[1], layout.sizes[4]
        # about as bright as the counts, so that the likelihood takes its usual way
        lit = min(2 * highest + 1, side) * width
        self.mode = draw.normal(size=(2, width, back)) * np.sqrt(0.5 * COUNTS / (lit * side**2))
        self.flight = np.exp(2j * np.pi * draw.random((width, back))) / side**2
        self.glass = np.exp(1j * draw.normal(size=(ROW, ROW)))
        self.waves = draw.normal(size=(2, 2, layout.sizes[0] * layout.sizes[3]))
        self.counts = draw.poisson(COUNTS, side * side)

    def run(self, piece: int, many: int) -> tuple[tuple[float, ...], np.ndarray, np.ndarray]:
        """What `repeat_piece` returns, the workspace, and the gradient of the object."""
        packed = piece in (1, 6)
        height, width, _, step, back = self.layout.sizes
        room = np.zeros(self.layout.count_numbers(2, 1))
        mode = 2 * (2 * height * step + width * back)
        room[mode : mode + 2 * width * back] = self._limit(self.mode, packed=packed).ravel()
        room[-height * width :] = self.counts
        if piece in (5, 6):
            self._fill_waves(room, packed=packed)
        flight = self._limit(np.stack([self.flight.real, self.flight.imag]), packed=packed)
        # what glass scatters out of a band is lost: many slices would leave numbers that are slow to add
        through = np.ones_like(self.glass) if piece in (5, 6) and many > MANY else self.glass
        glass = np.stack([through.real, through.imag], -1)
        plane = 2 * height * step
        more = [self._make(one) for one in (np.zeros(3 * plane), np.zeros(plane), glass, 0 * glass)]
        ramps = tuple(self._make(np.zeros(n)) for n in 2 * (height, height, width, width))
        room = self._make(room)
        if piece == 2:
            self._repeat(3, 1, room, more, ramps, flight)
        found = self._repeat(piece, many, room, more, ramps, flight)
        if piece == 2:
            self._repeat(4, 1, room, more, ramps, flight)
        return found, room, more[3]

    def _repeat(self, piece: int, many: int, room: Any, more: Any, ramps: Any, flight: Any) -> Any:
        turn = self.layout.frequencies[0].copy(), self.layout.frequencies[1]
        if piece in (1, 6):
            turn[0][self.band.into] = turn[0][self.band.out_of]
        given = (self.layout.sizes, self.layout.axes, room, tuple(more), ramps, turn)
        flights = self._make(flight[0]), self._make(flight[1])
        noise = (kernels.POISSON, 0.01, 20.0, 1.0 / COUNTS)
        return repeat_piece(piece, many, *given, self.layout.places, flights, tuple(self.band), noise)

    def _make(self, numbers: np.ndarray) -> np.ndarray:
        """An array that begins with a line of the cache, as workspaces do."""
        return torch.tensor(numbers.ravel(), dtype=self.dtype).numpy()

    def _limit(self, planes: np.ndarray, *, packed: bool) -> np.ndarray:
        """Planes ``(plane, x, y)`` without what is outside of the band; its rows first where ``packed``."""
        height = self.layout.sizes[0]
        out = np.zeros_like(planes)
        inside = self._list_inside()
        out[..., inside] = planes[..., inside]
        if packed:
            out[..., self.band.into] = planes[..., self.band.out_of]
            out[..., self.band.kept : height] = 0
        return out

    def _list_inside(self) -> np.ndarray:
        """Places of the rows of the band."""
        height = self.layout.sizes[0]
        signed = (np.argsort(self.layout.places[0]) + height // 2) % height - height // 2
        return np.flatnonzero(np.abs(signed) <= self.highest)

    def _fill_waves(self, room: np.ndarray, *, packed: bool) -> None:
        """Waves half way to real space, whose rows are frequencies; see `repeat_piece`."""
        height, width, _, step, back = self.layout.sizes
        work = 2 * (2 * height * step + 3 * width * back)
        for at, wave in zip((0, work), self.waves, strict=True):
            rows = wave.reshape(2, height, step).swapaxes(1, 2)
            rows = self._limit(rows, packed=packed).swapaxes(1, 2)
            room[at : at + 2 * height * step] = rows.ravel()


def check_held(side: int) -> float:
    """Largest relative difference of a pattern whose wave is held from the engine's own."""
    bench = Bench(side, side, torch.float64)
    plain, held = bench.run(0, 1), bench.run(2, 1)
    height, width, _, step, back = bench.layout.sizes
    slope = 2 * (2 * height * step + 2 * width * back)
    part = slice(slope, slope + 2 * width * back)
    rows = np.arange(2 * width * back).reshape(2, width, back)[..., :height].ravel()
    pairs = [*zip(plain[0], held[0], strict=True), (plain[1][part][rows], held[1][part][rows])]
    return max(_compare(a, b) for a, b in [*pairs, (plain[2], held[2])])


def check_narrow(side: int, highest: int) -> float:
    """Largest relative difference of patterns and slices in a band from the engine's own, twice."""
    bench = Bench(side, highest, torch.float64)
    plain, narrow = bench.run(0, 1), bench.run(1, 1)
    pairs = [*zip(plain[0], narrow[0], strict=True), (plain[2], narrow[2])]
    plain, narrow = bench.run(5, 3), bench.run(6, 3)
    return max(_compare(a, b) for a, b in [*pairs, (plain[2], narrow[2])])


def _compare(one: Any, other: Any) -> float:
    return float(np.abs(np.subtract(one, other)).max() / max(np.abs(one).max(), 1e-300))
