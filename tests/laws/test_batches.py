"""Laws of the batches: every pattern once, sizes alike, spread or close as their names say."""

import time
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho.batches import compact, random, sparse
from phaseloom.ptycho.likelihood import CountLoader

GEOMETRY = Geometry(wavelength=1.0, shape=(5, 7), angle=(1e-2, 1e-2))
KINDS = [
    pytest.param(random, {}, id="random"),
    pytest.param(sparse, {}, id="sparse"),
    pytest.param(sparse, {"ordering": "farthest"}, id="farthest"),
    pytest.param(sparse, {"ordering": "hilbert"}, id="hilbert"),
    pytest.param(compact, {}, id="compact"),
]


def raster(rows, columns, jitter=0.2):
    draw = np.random.default_rng(5)
    grid = np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2) * (1.0, 0.8)
    return grid + jitter * draw.standard_normal(grid.shape)


PLACES = raster(17, 23)
SOME = np.setdiff1d(np.arange(len(PLACES)), np.arange(3, len(PLACES), 20))


def members(batches):
    return [torch.cat(b).tolist() if isinstance(b, tuple) else b.tolist() for b in batches]


def spacing(batches, places=PLACES):
    return np.mean([pdist(places[batch]).min() for batch in members(batches) if len(batch) > 1])


def extent(batches, places=PLACES):
    return np.mean([pdist(places[batch]).mean() for batch in members(batches) if len(batch) > 1])


@pytest.mark.parametrize(("kind", "knobs"), KINDS)
class TestAll:
    @pytest.mark.parametrize("size", [1, 4, 7, 32, 300])
    @pytest.mark.parametrize("epoch", [1, 2])
    def test_every_pattern_comes_once_in_batches_of_like_size(self, kind, knobs, size, epoch):
        batches = members(kind(SOME, 3, PLACES, size=size, **knobs)(epoch))
        assert sorted(chain(*batches)) == SOME.tolist()
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) == max(1, round(len(SOME) / size))

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_a_batch_larger_than_the_scan_is_the_scan(self, kind, knobs, count):
        (batch,) = kind(np.arange(count), 0, PLACES, size=1000, **knobs)(1)
        assert sorted(batch.tolist()) == list(range(count))

    def test_depends_on_seed_and_epoch_alone(self, kind, knobs):
        def order(seed, epoch):
            np.random.rand(3)
            torch.rand(3)
            return members(kind(SOME, seed, PLACES, size=8, **knobs)(epoch))

        assert order(0, 3) == order(0, 3)
        assert order(0, 3) != order(0, 4)
        assert order(0, 3) != order(1, 3)

    def test_members_change_with_the_epoch(self, kind, knobs):
        drawn = kind(SOME, 0, PLACES, size=8, **knobs)
        first, second = ({frozenset(batch) for batch in members(drawn(epoch))} for epoch in (1, 2))
        assert len(first & second) < len(first) / 2

    def test_pieces_make_up_the_large_batch(self, kind, knobs):
        large = kind(SOME, 0, PLACES, size=30, **knobs)(2)
        pieces = kind(SOME, 0, PLACES, size=10, accumulate=3, **knobs)(2)
        assert members(large) == members(pieces)
        for batch in pieces:
            sizes = [len(piece) for piece in batch]
            assert len(sizes) == 3
            assert max(sizes) - min(sizes) <= 1

    def test_no_piece_is_empty(self, kind, knobs):
        (batch,) = kind(np.arange(3), 0, PLACES, size=2, accumulate=8, **knobs)(1)
        assert [len(piece) for piece in batch] == [1, 1, 1]

    def test_patterns_at_one_place_are_no_trouble(self, kind, knobs):
        batches = members(kind(np.arange(20), 0, np.zeros((20, 2)), size=6, **knobs)(1))
        assert sorted(chain(*batches)) == list(range(20))

    @pytest.mark.parametrize("wrong", [{"size": 0}, {"accumulate": 0}])
    def test_impossible_sizes_are_told(self, kind, knobs, wrong):
        with pytest.raises(BadInput, match="at least 1"):
            kind(SOME, 0, PLACES, **wrong, **knobs)

    def test_without_a_size_an_epoch_has_a_dozen_steps(self, kind, knobs):
        assert len(kind(SOME, 0, PLACES, **knobs)(1)) >= 11
        assert len(kind(SOME, 0, PLACES, accumulate=4, **knobs)(1)) >= 11


class TestPlaces:
    @pytest.mark.parametrize("ordering", ["farthest", "hilbert"])
    @pytest.mark.parametrize("size", [6, 16])
    @pytest.mark.parametrize("jitter", [0.0, 0.2])
    def test_sparse_lies_wider_than_random_and_compact_closer(self, ordering, size, jitter):
        places, index = raster(17, 23, jitter), np.arange(17 * 23)
        wide = sparse(index, 0, places, size=size, ordering=ordering)(1)
        any_, close = random(index, 0, size=size)(1), compact(index, 0, places, size=size)(1)
        assert spacing(wide, places) > 1.5 * spacing(any_, places)
        assert spacing(close, places) < spacing(any_, places)
        assert extent(close, places) < 0.4 * extent(any_, places)

    def test_farthest_comes_near_an_even_lattice_in_every_batch(self):
        even = np.sqrt(17 * 23 * 0.8 / 16)
        batches = sparse(np.arange(17 * 23), 0, PLACES, size=16, ordering="farthest")(1)
        assert spacing(batches) > 0.6 * even
        assert min(pdist(PLACES[batch]).min() for batch in members(batches)) > 0.2 * even

    def test_a_large_scan_is_grouped_in_a_moment(self):
        places, index = raster(256, 256, 0.1), np.arange(65536)
        began = time.process_time()
        assert len(sparse(index, 0, places, size=32)(1)) == len(compact(index, 0, places, size=32)(1)) == 2048
        assert time.process_time() - began < 5

    def test_groups_of_a_larger_scan_are_drawn_once_and_shuffled(self):
        drawn = sparse(np.arange(1600), 0, raster(40, 40), size=100, ordering="farthest")
        first, second = members(drawn(1)), members(drawn(2))
        assert first != second
        assert sorted(first) == sorted(second)

    @pytest.mark.parametrize("kind", [sparse, compact])
    def test_positions_are_asked_for(self, kind):
        with pytest.raises(BadInput, match="positions"):
            kind(np.arange(4))


class Watched(np.ndarray):
    """An array that counts how many patterns are taken from it at a time."""

    taken: list

    def __getitem__(self, key):
        out = super().__getitem__(key)
        if isinstance(key, np.ndarray):
            self.taken.append(len(key))
        return out


class TestMeasured:
    def scan(self, dtype):
        counts = np.arange(6 * 5 * 7).reshape(6, 5, 7).astype(dtype)
        return Scan4D(counts=counts, positions=np.zeros((6, 2)), geometry=GEOMETRY)

    @pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i4", "f4", "f8"])
    def test_gives_arranged_floats_of_any_dtype(self, dtype):
        scan = self.scan(dtype)
        measured = CountLoader(scan, lambda x: torch.fft.ifftshift(x, dim=(-2, -1)))
        got = measured[torch.tensor([4, 1])]
        assert got.dtype == torch.float32
        np.testing.assert_array_equal(got, np.fft.ifftshift(scan.counts[[4, 1]], axes=(1, 2)))
        assert len(measured) == 6

    def test_an_array_in_memory_is_not_copied(self):
        scan = self.scan("u2")
        measured = CountLoader(scan, lambda x: x.roll(1, -1))
        assert np.shares_memory(measured.counts, scan.counts)
        assert not any(isinstance(v, np.ndarray) and v is not scan.counts for v in vars(measured).values())

    def test_only_the_batch_is_read(self, monkeypatch):
        monkeypatch.setattr("phaseloom.ptycho.likelihood.MAX_FLOAT_BYTES", 0)
        scan = self.scan("u2")
        counts = scan.counts.view(Watched)
        measured = CountLoader(replace(scan, counts=counts), lambda x: x)
        counts.taken = []
        measured[torch.tensor([5, 0])]
        assert counts.taken == [2]

    def test_few_patterns_are_read_once(self):
        scan = self.scan("u2")
        counts = scan.counts.view(Watched)
        measured = CountLoader(replace(scan, counts=counts), lambda x: x)
        counts.taken = []
        first = measured[torch.tensor([5, 0])]
        counts.taken.clear()
        assert torch.equal(measured[torch.tensor([5, 0])], first)
        assert counts.taken == []
