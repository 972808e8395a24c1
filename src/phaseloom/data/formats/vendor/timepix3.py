"""Timepix3 events ``.tpx3``: chunks of 64-bit words, of which each is a hit of a pixel or a pulse of the
scan.

A chunk begins with ``TPX3``, u1 chip, u1 mode, u2 bytes. The top four bits of a word are 0xB for a hit:
address 59-44, time of arrival 43-30 (25 ns), time over threshold 29-20 (25 ns), fine time 19-16 (-1.5625 ns),
coarse time 15-0 (0.4096 ms); and 0x6 for a pulse: edge 59-56 (0xF, 0xA: rising, falling of input 1; 0xE, 0xB
of input 2), time 43-9 (3.125 ns). Times here count 1.5625 ns, of which 2**34 pass until hits begin again at
zero.
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Unpack

import numpy as np

from phaseloom.data.counts import SparseSource
from phaseloom.data.formats.files import require_file
from phaseloom.data.formats.header import About, Header, MissingValues, list_missing, merge
from phaseloom.data.formats.setup import Setup, accept_setup, build_scan
from phaseloom.data.remarks import warn
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput
from phaseloom.units import Time

__all__ = ["ABOUT", "Sync", "knows", "read"]

ABOUT = About(
    files=".tpx3",
    reading="one pass; lists of hits in memory, dense when read",
    states="pulses of the rows",
    compared="none",
)

log = logging.getLogger(__name__)

Sync = Literal["rising 1", "falling 1", "rising 2", "falling 2", "none"]

EDGES = {"rising 1": 0xF, "falling 1": 0xA, "rising 2": 0xE, "falling 2": 0xB}
SIGNATURE = 0x33585054
"""``TPX3`` as the lower half of a word."""

TICK = 1.5625e-9
PERIOD = 1 << 34
CHIP = 256
GAP = 4
"""Pixels between the chips of a quad, which see nothing."""

WORDS_AT_ONCE = 1 << 21
MAX_TICKS_IN_ORDER = 1 << 33

MIN_PART_OF_ROW = 0.99
"""Time between two pulses over that of the places of a row, at least: clocks of scan and detector differ."""

MAX_PART_OF_ROW = 3.0
"""The same at most; the beam may take some time to fly back."""

MAX_INTERVAL_OF_PULSES = 1.5
"""Of the median interval; a lost pulse makes one of 2."""


class _Events(NamedTuple):
    """Hits, or pulses (``x`` is then the edge), with times in ticks."""

    time: np.ndarray
    x: np.ndarray
    y: np.ndarray
    over: np.ndarray


def knows(path: Path, /) -> bool:
    """Whether a file begins with a chunk of Timepix3."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"TPX3"


@accept_setup()
def read(
    path: str | os.PathLike[str],
    /,
    *,
    dwell: Time | None = None,
    sync: Sync = "rising 1",
    flyback: int = 0,
    cluster: Time | None = None,
    **setup: Unpack[Setup],
) -> Scan4D:
    """Counts of a Timepix3 by the time of each hit in the scan; they stay lists of hits, dense when read.

    A pulse begins a row of the raster: a hit belongs to the place ``(time - pulse) / dwell`` of its row. With
    ``sync: none``, or where the file has no such pulse, places follow one another from the first hit on.
    The order of the chips of a quad, and its gap of 4 pixels, are those of the maker's software; no file of a
    real quad was at hand to check them.

    Args:
        path: the file.
        **setup: see `Setup`; ``grid`` is needed.
        dwell: time at a place; default: that between two pulses, divided by the places of a row.
        sync: which pulses begin rows.
        flyback: places after each row that belong to none.
        cluster: hits of touching pixels within this time are one electron, at their centre of mass by time
            over threshold; default: each hit counts.

    Raises:
        MissingValues: also when there is no grid, or neither dwell time nor pulses.
        BadInput: no hits, or a damaged file.

    Example:
        >>> hit = lambda tick, pixel: 0xB << 60 | pixel << 44 | (tick >> 4) << 30
        >>> words = [hit(16 * 100 * place, place) for place in range(4)]
        >>> chunk = b"TPX3" + bytes([0, 0, 32, 0]) + np.array(words, "<u8").tobytes()
        >>> _ = Path("a.tpx3").write_bytes(chunk)
        >>> scan = read("a.tpx3", energy=2e5, angle=1e-3, step=1.0, grid=(2, 2), dwell=100 * 25e-9)
        >>> [int(pattern.argmax()) for pattern in scan.counts[:]]
        [0, 256, 512, 768]
    """
    path = require_file(path)
    header = Header(
        metadata={"detector": "Timepix3"},
        hints={"grid": "rows and columns of the scan (slow, fast): the file has only times"},
    )
    known, from_file = merge({k: v for k, v in setup.items() if k in Setup.__annotations__}, header)
    missing = list_missing(known, header, has_raster=False, count=0)
    grid = setup.pop("grid", None)
    if grid is None:
        raise MissingValues(path, missing or {"grid": header.hints["grid"]}, known, from_file)
    hits, pulses, chips = _read_events(path)
    starts = pulses.time[pulses.x == EDGES[sync]] if sync != "none" else np.zeros(0, np.int64)
    row = grid[1] + flyback
    if dwell is None and len(starts) < 2:
        missing["dwell"] = (
            "time at a place of the scan: 1e-5 s for example; the file has no pulses of its rows"
        )
        raise MissingValues(path, missing, known, from_file)
    ticks = round(dwell / TICK, 6) if dwell is not None else float(np.median(np.diff(starts))) / row
    if not ticks > 0 or min(*grid, row) < 1:
        raise BadInput(f"{path.name}: dwell", dwell, "must be a positive time, and grid positive numbers")
    _compare_with_pulses(path.name, starts, ticks, grid)
    if cluster is not None:
        hits = _join_clusters(hits, cluster / TICK)
    place = _find_places(hits.time, starts, ticks, grid, row)
    pixels = (CHIP, CHIP) if chips == 1 else (2 * CHIP + GAP, 2 * CHIP + GAP)
    source = _sort(hits, place, grid, pixels)
    kept = int(source.indptr[-1])
    log.info("%s: %d of %d hits are in the scan, %d pulses", path.name, kept, len(hits.time), len(starts))
    if kept == 0:
        raise BadInput(path.name, None, "has no hit within the raster: check dwell, grid and sync")
    header = Header(
        mask=_gap_mask(pixels), metadata=dict(header.metadata) | _describe(path, hits, starts, ticks)
    )
    return build_scan(path, source, setup, header=header)


def _compare_with_pulses(name: str, starts: np.ndarray, ticks: float, grid: tuple[int, int]) -> None:
    """Warn where the pulses of the rows contradict the raster and the dwell time."""
    if not len(starts):
        return
    slow, fast = grid
    if len(starts) != slow:
        text = "%s: has %d pulses that begin rows, but grid has %d rows: check grid and sync"
        warn(log, text, name, len(starts), slow)
    intervals = np.diff(starts)
    if not len(intervals):
        return
    row = float(np.median(intervals))
    places = row / ticks
    if not fast * MIN_PART_OF_ROW < places < fast * MAX_PART_OF_ROW:
        text = (
            "%s: pulses begin a row every %.4g s, the time of %.4g places, but grid has %d: check dwell, grid"
        )
        warn(log, text, name, row * TICK, places, fast)
    late = int((intervals[: slow - 1] > MAX_INTERVAL_OF_PULSES * row).sum())
    if late:
        warn(log, "%s: %d pulses of rows come late, as if pulses before them were lost", name, late)


def _chunks(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Chips and words of the chunks of a file, until its end or the first damage."""
    words: Any = (
        np.memmap(path, "<u8", "r", 0, (path.stat().st_size // 8,)) if path.stat().st_size >= 8 else []
    )
    at = 0
    while at < len(words):
        head = int(words[at])
        size = head >> 48
        if head & 0xFFFFFFFF != SIGNATURE or size % 8 or not size:
            warn(log, "%s: is damaged after %d of %d words: the rest was left out", path.name, at, len(words))
            return
        end = at + 1 + size // 8
        if end > len(words):
            warn(log, "%s: its last chunk is cut short: what is there is used", path.name)
        yield head >> 32 & 0xFF, words[at + 1 : end]
        at = end


def _blocks(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Chips and words of many chunks at once."""
    chips: list[np.ndarray] = []
    parts: list[np.ndarray] = []
    count = 0
    for chip, part in _chunks(path):
        chips.append(np.full(len(part), chip, np.uint8))
        parts.append(part)
        count += len(part)
        if count >= WORDS_AT_ONCE:
            yield np.concatenate(chips), np.concatenate(parts)
            chips, parts, count = [], [], 0
    if parts:
        yield np.concatenate(chips), np.concatenate(parts)


def _read_events(path: Path) -> tuple[_Events, _Events, int]:
    """Hits and pulses in the order of their times, and the number of chips (1 or 4)."""
    if not knows(path):
        raise BadInput(path.name, None, "does not begin with a chunk TPX3: choose another format")
    hits: list[_Events] = []
    pulses: list[_Events] = []
    turn, last, chips = 0, None, 1
    for chip, words in _blocks(path):
        kind = words >> np.uint64(60)
        hit, pulse = kind == 0xB, kind == 0x6
        time = np.where(hit, _hit_ticks(words), _pulse_ticks(words))
        time, turn, last = _unwrap(time, hit | pulse, turn, last)
        chips = 4 if hit.any() and chip[hit].max() > 0 else chips
        hits.append(_decode_hits(words[hit], time[hit], chip[hit]))
        edge = (words[pulse] >> np.uint64(56) & np.uint64(15)).astype(np.uint16)
        pulses.append(_Events(time[pulse], edge, edge, edge))
    joined = [
        _Events(*(np.concatenate(part) for part in zip(*some, strict=True))) if some else None
        for some in (hits, pulses)
    ]
    if joined[0] is None or joined[1] is None or not len(joined[0].time):
        raise BadInput(path.name, None, "has no hits: copy it again")
    ordered = [_Events(*(part[np.argsort(one.time, kind="stable")] for part in one)) for one in joined if one]
    if chips == 4:
        ordered[0] = _place_chips(ordered[0])
    return ordered[0], ordered[1], chips


def _hit_ticks(words: np.ndarray) -> np.ndarray:
    coarse = (words & np.uint64(0xFFFF)) << np.uint64(14)
    arrival = (words >> np.uint64(30)) & np.uint64(0x3FFF)
    fine = (words >> np.uint64(16)) & np.uint64(0xF)
    return ((coarse | arrival) << np.uint64(4)).astype(np.int64) - fine.astype(np.int64)


def _pulse_ticks(words: np.ndarray) -> np.ndarray:
    """Times of pulses, which begin again after four turns of the clock of hits."""
    return (((words >> np.uint64(9)) & np.uint64((1 << 35) - 1)) << np.uint64(1)).astype(np.int64) % PERIOD


def _unwrap(
    time: np.ndarray, used: np.ndarray, turn: int, last: int | None
) -> tuple[np.ndarray, int, int | None]:
    """Times that go on growing where the clock begins again: words are nearly in order."""
    some = time[used]
    if not len(some):
        return time, turn, last
    steps = np.diff(some, prepend=some[0] if last is None else last)
    turns = turn + np.cumsum((steps < -MAX_TICKS_IN_ORDER).astype(np.int64) - (steps > MAX_TICKS_IN_ORDER))
    out = time.copy()
    out[used] = some + turns * PERIOD
    return out, int(turns[-1]), int(some[-1])


def _decode_hits(words: np.ndarray, time: np.ndarray, chip: np.ndarray) -> _Events:
    address = ((words >> np.uint64(44)) & np.uint64(0xFFFF)).astype(np.uint16)
    pixel = address & 7
    x = ((address & 0xFE00) >> 8) + (pixel >> 2)
    y = ((address & 0x1F8) >> 1) + (pixel & 3)
    over = ((words >> np.uint64(20)) & np.uint64(0x3FF)).astype(np.uint16)
    return _Events(time, (x | (chip.astype(np.uint16) << 9)).astype(np.uint16), y.astype(np.uint16), over)


def _place_chips(hits: _Events) -> _Events:
    """Hits of a quad: chips 1 and 2 lie upside down below chips 0 (right) and 3 (left)."""
    chip = hits.x >> 9 & 3
    x, y = hits.x & 0x1FF, hits.y
    turned = (chip == 1) | (chip == 2)
    x = np.where(turned, CHIP - 1 - x, x) + (CHIP + GAP) * (chip <= 1)
    y = np.where(turned, CHIP - 1 - y, y) + (CHIP + GAP) * turned
    return hits._replace(x=x.astype(np.uint16), y=y.astype(np.uint16))


def _gap_mask(pixels: tuple[int, int]) -> np.ndarray | None:
    if pixels == (CHIP, CHIP):
        return None
    good = np.ones(pixels, bool)
    good[CHIP : CHIP + GAP] = False
    good[:, CHIP : CHIP + GAP] = False
    return good


def _join_clusters(hits: _Events, ticks: float) -> _Events:
    """One event for hits of touching pixels within a time, at their centre of mass."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(hits.time)
    x, y = hits.x.astype(np.int64), hits.y.astype(np.int64)
    first, second = [], []
    for lag in range(1, n):
        near = hits.time[lag:] - hits.time[:-lag] <= ticks
        if not near.any():
            break
        touch = near & (np.abs(x[lag:] - x[:-lag]) <= 1) & (np.abs(y[lag:] - y[:-lag]) <= 1)
        first.append(np.flatnonzero(touch))
        second.append(first[-1] + lag)
    pairs = [np.concatenate(part) if part else np.zeros(0, np.int64) for part in (first, second)]
    graph = coo_array((np.ones(len(pairs[0]), bool), tuple(pairs)), shape=(n, n))
    count, label = connected_components(graph, directed=False)
    weight = np.maximum(hits.over, 1).astype(np.float64)
    total = np.bincount(label, weight, count)
    centre = [np.round(np.bincount(label, weight * one, count) / total).astype(np.uint16) for one in (x, y)]
    time = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(time, label, hits.time)
    return _Events(time, centre[0], centre[1], np.minimum(total, 65535).astype(np.uint16))


def _find_places(
    time: np.ndarray, starts: np.ndarray, ticks: float, grid: tuple[int, int], row: int
) -> np.ndarray:
    """Place in the raster of each hit, -1 for those of the flyback, before and after the scan."""
    slow, fast = grid
    if len(starts):
        line = np.searchsorted(starts, time, side="right") - 1
        column = np.floor((time - starts[np.maximum(line, 0)]) / ticks)
    else:
        number = np.floor((time - time.min()) / ticks).astype(np.int64)
        line, column = number // row, number % row
    inside = (line >= 0) & (line < slow) & (column >= 0) & (column < fast)
    return np.where(inside, line * fast + np.where(inside, column, 0).astype(np.int64), -1)


def _sort(hits: _Events, place: np.ndarray, grid: tuple[int, int], pixels: tuple[int, int]) -> SparseSource:
    """Lists of hits in the order of the raster."""
    inside = np.flatnonzero(place >= 0)
    order = inside[np.argsort(place[inside], kind="stable")]
    counts = np.bincount(place[order], minlength=grid[0] * grid[1])
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = hits.y[order].astype(np.uint32) * pixels[1] + hits.x[order]
    dtype = np.dtype("u1" if counts.max(initial=0) < 255 else "u2" if counts.max() < 65535 else "u4")
    return SparseSource(indptr, indices, None, (int(grid[0]), int(grid[1])), pixels, dtype)


def _describe(path: Path, hits: _Events, starts: np.ndarray, ticks: float) -> dict[str, str]:
    seconds = float(hits.time[-1] - hits.time[0]) * TICK if len(hits.time) else 0.0
    text = f"{len(hits.time)} hits in {seconds:.6g} s, {len(starts)} pulses at the beginning of rows"
    return {"dwell time": f"{ticks * TICK:.6g} s", "original header": f"{path.name}: {text}"}
