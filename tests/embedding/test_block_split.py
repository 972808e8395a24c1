"""Parts of a scan are whole blocks of neighbours, and batches are few strokes of a file."""

import numpy as np
import pytest

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.embedding.block_split import make_batches, split_blocks
from phaseloom.errors import BadInput

GEOMETRY = Geometry(wavelength=0.04, shape=(4, 4), angle=(1e-3, 1e-3), beam="electron")


def scan(rows: int, cols: int, *, step=(2.0, 2.0), turn=0.0, order=None) -> Scan4D:
    places = np.stack(np.meshgrid(np.arange(rows) * step[0], np.arange(cols) * step[1], indexing="ij"), -1)
    places = places.reshape(-1, 2)
    if turn:
        places = places @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if order is not None:
        places = places[order]
    return Scan4D(counts=np.ones((len(places), 4, 4), np.uint8), positions=places, geometry=GEOMETRY)


def three(parts) -> list[np.ndarray]:
    return [parts.train, parts.validation, parts.test]


@pytest.mark.parametrize("shape", [(16, 24), (9, 50), (64, 8), (1, 100), (100, 1)])
@pytest.mark.parametrize("seed", [0, 3])
def test_every_pattern_is_in_one_part(shape, seed):
    parts = split_blocks(scan(*shape), seed=seed)
    assert all(len(part) for part in three(parts))
    np.testing.assert_array_equal(np.sort(np.concatenate(three(parts))), np.arange(np.prod(shape)))
    assert all((np.diff(part) > 0).all() for part in three(parts))


def test_blocks_are_squares_of_the_scan():
    parts = split_blocks(scan(32, 40), edge=8, test=0.05)
    rows, cols = np.divmod(parts.test, 40)
    assert (np.ptp(rows), np.ptp(cols), len(parts.test)) == (7, 7, 64)
    assert (rows.min() % 8, cols.min() % 8) == (0, 0)


def test_most_held_out_patterns_have_no_neighbour_that_is_learned_from():
    """At random nearly all have; of blocks, those at the edges."""
    shape, parts = (48, 48), split_blocks(scan(48, 48), edge=8, test=0.2)
    learned = np.zeros(shape, bool)
    learned.flat[parts.train] = True
    near = np.zeros(shape, bool)
    for axis in (0, 1):
        for way in (-1, 1):
            near |= np.roll(learned, way, axis)
    assert near.flat[parts.test].mean() < 0.5


def test_the_order_of_patterns_does_not_matter():
    order = np.random.default_rng(0).permutation(32 * 24)
    plain, mixed = split_blocks(scan(32, 24)), split_blocks(scan(32, 24, order=order))
    for one, other in zip(three(plain), three(mixed), strict=True):
        np.testing.assert_array_equal(one, np.sort(order[other]))


@pytest.mark.parametrize("knobs", [{"turn": 0.5}, {"step": (1.0, 3.0)}])
def test_rasters_of_any_kind_are_parted(knobs):
    parts = split_blocks(scan(32, 32, **knobs))
    assert 0.1 < len(parts.test) / 1024 < 0.35
    assert 0.04 < len(parts.validation) / 1024 < 0.25


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"edge": 0}, "blocks: edge: 0 must be 1 probe"),
        ({"test": 1.0}, "blocks: test: 1.0 must be a share"),
        ({"edge": 8, "test": 0.5, "validation": 0.5}, "leave none to learn from"),
        ({"edge": 100}, "1 blocks of 100 x 100 probes leave none"),
    ],
)
def test_what_cannot_be_parted_is_said(knobs, said):
    with pytest.raises(BadInput, match=said):
        split_blocks(scan(16, 16), **knobs)


@pytest.mark.parametrize(("count", "size"), [(100, 16), (7, 16), (33, 1), (64, 64)])
def test_batches_hold_every_pattern_once(count, size):
    numbers = np.arange(count) * 3 + 1
    batches = make_batches(numbers, size, seed=(0, 5))
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), numbers)
    assert max(map(len, batches)) <= size


def test_batches_are_few_strokes_and_others_in_every_epoch():
    first, again, other = (make_batches(range(4096), 64, seed=(0, epoch)) for epoch in (1, 1, 2))
    strokes = [1 + int((np.diff(batch) > 1).sum()) for batch in first]
    assert max(strokes) <= 6  # four runs, one of them perhaps cut at the end of a batch
    assert all(np.array_equal(one, same) for one, same in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
