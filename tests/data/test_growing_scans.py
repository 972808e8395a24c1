"""Scans that are still being taken: files that get longer, folders that fill, and their faults."""

import subprocess
import sys
import textwrap
import time

import h5py
import numpy as np
import pytest

import phaseloom as pl
from phaseloom.data.growing import frame_folder, growing_file, open_growing
from phaseloom.data.growing.feed import Announcement, FeedEnd, FrameBlock
from phaseloom.data.growing.growing_scan import GrowingScan
from phaseloom.errors import BadInput

GRID = (3, 4)
COUNT = 12
SETUP = {"energy": "8 keV", "beam": "photon", "angle": "40 µrad", "step": "100 nm", "grid": list(GRID)}


@pytest.fixture(autouse=True)
def _looks_without_waiting(monkeypatch):
    monkeypatch.setattr(growing_file, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(frame_folder, "SECONDS_BETWEEN_LOOKS", 0.0)


@pytest.fixture
def frames():
    """Own patterns: no two are alike, and none is blank."""
    rng = np.random.default_rng(3)
    return rng.poisson(4.0, (COUNT, 9, 7)).astype(np.uint16) + np.arange(1, COUNT + 1)[:, None, None].astype(
        "u2"
    )


class Script:
    """A source that brings the blocks that a test names."""

    name = "script"

    def __init__(self, shape, count, blocks, end=FeedEnd.ENDED, positions=True):
        geometry = pl.Geometry(wavelength=1.5, shape=shape, angle=4e-5)
        scan = pl.Scan4D(counts=np.ones((1, *shape)), positions=np.zeros((1, 2)), geometry=geometry)
        places = np.indices(GRID).reshape(2, -1).T * 1000.0 if positions else None
        grid = GRID if positions else None
        self.announcement = Announcement(scan, count, places, grid)
        self.blocks = list(blocks)
        self.last = end
        self.end = None

    def announce(self):
        return self.announcement

    def take(self):
        if not self.blocks:
            self.end = self.last
            return []
        return [self.blocks.pop(0)]

    def report(self):
        return []

    def close(self):
        self.end = self.end or self.last


def drain(growing, looks=30):
    for _ in range(looks):
        growing.update()
        if growing.end is not None:
            break
    growing.update()


def block(frames, *numbers, **more):
    return FrameBlock(np.array(numbers), frames[list(numbers)], **more)


def test_patterns_in_any_order_end_in_their_places(frames):
    order = np.random.default_rng(0).permutation(COUNT)
    growing = GrowingScan(Script((9, 7), COUNT, [block(frames, k) for k in order], FeedEnd.COMPLETE))
    drain(growing)
    assert growing.scan().grid is None  # as they came
    moved = growing.finish()
    assert np.array_equal(moved, np.argsort(order))
    scan = growing.scan()
    assert np.array_equal(scan.counts, frames)
    assert scan.grid == GRID
    assert np.array_equal(scan.positions, np.indices(GRID).reshape(2, -1).T * 1000.0)
    assert growing.arrivals.out_of_order == int((order < np.maximum.accumulate(order)).sum())
    assert growing.arrivals.lost == 0


def test_a_lost_a_double_and_a_blank_pattern_are_counted_and_said(frames):
    blank = np.zeros((1, 9, 7), np.uint16)
    rest = [k for k in range(COUNT) if k not in (2, 5)]
    blocks = [block(frames, *rest), block(frames, 3), FrameBlock(np.array([5]), blank)]
    growing = GrowingScan(Script((9, 7), COUNT, blocks))
    drain(growing)
    here = growing.arrivals
    assert (here.arrived, here.lost, here.duplicates, here.blank, here.out_of_order) == (10, 1, 1, 1, 1)
    said = " ".join(growing.describe())
    assert "1 patterns were lost (number 2)" in said
    assert np.array_equal(growing.scan().counts, frames[rest])
    assert growing.scan().grid is None


def test_the_first_of_two_patterns_of_one_number_counts(frames):
    both = FrameBlock(np.array([0, 0]), frames[[0, 1]])
    growing = GrowingScan(Script((9, 7), COUNT, [both, FrameBlock(np.array([0]), frames[[4]])]))
    drain(growing)
    assert np.array_equal(growing.scan().counts, frames[:1])
    assert growing.arrivals.duplicates == 2


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (FrameBlock(np.array([1]), np.ones((1, 7, 9), np.uint16)), "has 7 x 9 pixels, not 9 x 7"),
        (
            FrameBlock(np.array([1]), np.ones((1, 9, 7), np.float32)),
            "is of float32, the first ones of uint16",
        ),
        (FrameBlock(np.array([1]), np.full((1, 9, 7), 70000)), "is of int64, the first ones of uint16"),
        (FrameBlock(np.array([1]), np.ones((1, 9, 7), complex)), "which are no counts"),
        (FrameBlock(np.array([12]), np.ones((1, 9, 7), np.uint16)), "number 12 is not of this scan: 12 were"),
        (FrameBlock(np.array([-1]), np.ones((1, 9, 7), np.uint16)), "number -1 is not of this scan"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused_and_the_others_stay(frames, wrong, sentence):
    growing = GrowingScan(Script((9, 7), COUNT, [block(frames, 0), wrong, block(frames, 2)]))
    drain(growing)
    assert growing.arrivals.refused == 1
    assert sentence in " ".join(growing.describe())
    assert np.array_equal(growing.scan().counts, frames[[0, 2]])


def test_each_reason_of_a_refusal_is_told_once(frames):
    large = [FrameBlock(np.array([k]), np.ones((1, 7, 9), np.uint16)) for k in (1, 3)]
    nowhere = FrameBlock(np.array([5]), frames[[5]], np.array([[np.nan, 1.0]]))
    growing = GrowingScan(Script((9, 7), COUNT, [block(frames, 0), *large, nowhere, block(frames, 2)]))
    drain(growing)
    sentence = (
        "3 patterns were refused: pattern 1 has 7 x 9 pixels, not 9 x 7 (2 such patterns); "
        "pattern 5 has a position that is not finite"
    )
    assert sentence in growing.describe()


def test_a_smaller_type_is_taken_and_a_pattern_without_position_is_not(frames):
    small = FrameBlock(np.array([1]), np.ones((1, 9, 7), np.uint8), np.array([[1.0, 2.0]]))
    lone = FrameBlock(np.array([2]), frames[[2]])
    first = FrameBlock(np.array([0]), frames[[0]], np.array([[0.0, 2.0]]))
    growing = GrowingScan(Script((9, 7), None, [first, small, lone], positions=False))
    drain(growing)
    assert growing.scan().positions.tolist() == [[0.0, 2.0], [1.0, 2.0]]
    assert growing.scan().counts[1].max() == 1
    assert "came without a position" in " ".join(growing.describe())


def test_pixels_without_a_value_in_any_pattern_are_masked_and_negative_counts_are_zero(frames):
    marked = frames.copy()
    marked[:, 4, 2] = 65535
    marked[3, 1, 1] = 65535  # saturated once: a value
    growing = GrowingScan(Script((9, 7), COUNT, [FrameBlock(np.arange(COUNT), marked)]))
    drain(growing)
    assert np.argwhere(~growing.scan().mask).tolist() == [[4, 2]]
    below = frames.astype(np.int32)
    below[0, 0, 0] = -3
    growing = GrowingScan(Script((9, 7), COUNT, [FrameBlock(np.arange(COUNT), below)]))
    drain(growing)
    assert growing.scan().counts.min() == 0
    assert growing.scan().mask.all()


def test_a_scan_given_away_does_not_change_when_patterns_come(frames):
    growing = GrowingScan(
        Script((9, 7), None, [block(frames, k, positions=np.zeros((1, 2))) for k in range(12)])
    )
    growing.update()
    first = growing.scan()
    kept = first.counts.copy()
    drain(growing)
    assert len(first) == 1
    assert np.array_equal(first.counts, kept)


def test_what_is_recorded_is_read_again_as_it_was(frames, tmp_path):
    order = [0, 1, 2, 5, 4, 3, 6, 7, 8, 9, 11, 10]
    blocks = [block(frames, *order[:4]), block(frames, *order[4:9]), block(frames, *order[9:])]
    growing = GrowingScan(Script((9, 7), COUNT, blocks, FeedEnd.COMPLETE))
    growing.update()
    growing.record(tmp_path / "scan.h5")
    growing.update()
    drain(growing)
    with h5py.File(tmp_path / "scan.h5", "r", swmr=True) as file:  # what another process sees
        assert len(file["counts"]) == COUNT
    growing.finish()
    again = pl.read(tmp_path / "scan.h5")
    assert again.digest() == growing.scan().digest()
    assert again.grid == GRID
    assert again.geometry == growing.scan().geometry


def test_a_record_in_order_is_completed_without_writing_it_anew(frames, tmp_path):
    growing = GrowingScan(Script((9, 7), COUNT, [block(frames, *range(5)), block(frames, *range(5, 12))]))
    growing.update()
    growing.record(tmp_path / "scan.h5")
    drain(growing)
    growing.finish()
    assert pl.read(tmp_path / "scan.h5").digest() == growing.scan().digest()
    assert pl.read(tmp_path / "scan.h5").grid == GRID
    with pytest.raises(BadInput, match="cannot be written"):
        growing.record(tmp_path / "scan.h5")


@pytest.mark.parametrize("step", [1, 5])
def test_a_raw_file_that_is_appended_to_ends_as_it_is_read_whole(frames, tmp_path, step):
    path = tmp_path / "scan.raw"
    knobs = {**SETUP, "shape": [*GRID, 9, 7], "dtype": "uint16"}
    knobs.pop("grid")
    frames[:2].tofile(path)
    with path.open("ab") as file:
        file.write(frames[2].tobytes()[:50])  # half of a pattern
    growing = open_growing(path, setup=knobs, silence=60)
    growing.update()
    assert growing.announcement.count == COUNT
    assert growing.announcement.grid == GRID
    for end in range(3, COUNT + step, step):
        frames[:end].tofile(path)
        growing.update()
        scan = growing.scan()
        assert np.array_equal(scan.counts, frames[: len(scan)])
    drain(growing)
    assert growing.end is FeedEnd.COMPLETE
    growing.finish()
    whole = pl.read(path, knobs=knobs)
    assert growing.scan().digest() == whole.digest()
    assert growing.scan().grid == whole.grid == GRID


def test_places_for_all_patterns_that_fill_up_are_patterns_that_come(frames, tmp_path):
    path = tmp_path / "places.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint16, (*GRID, 9, 7))
    places = mapped.reshape(COUNT, 9, 7)
    places[0] = frames[0]
    growing = open_growing(path, setup={k: v for k, v in SETUP.items() if k != "grid"}, silence=60)
    places[0, 4:] = 0  # the first one was half written when it was seen
    growing.update()
    assert len(growing) == 0
    places[:5] = frames[:5]
    places[3] = 0  # comes late
    growing.update()
    growing.update()
    assert growing.numbers.tolist() == [0, 1, 2, 4]
    places[:] = frames
    drain(growing)
    assert growing.end is FeedEnd.COMPLETE
    growing.finish()
    assert np.array_equal(growing.scan().counts, frames)


def test_positions_that_are_written_after_their_patterns_are_waited_for(frames, tmp_path):
    path = tmp_path / "both.h5"
    places = np.random.default_rng(1).uniform(0, 1e-6, (COUNT, 2))

    def write(patterns, known):
        with h5py.File(path, "w") as file:
            file["frames"] = frames[:patterns]
            file["xy"] = places[:known]

    knobs = {k: v for k, v in SETUP.items() if k not in ("grid", "step")}
    knobs |= {"positions": "xy", "positions_unit": "m", "dataset": "frames"}
    write(4, 2)
    growing = open_growing(path, setup=knobs, format="hdf5", silence=0.3)
    growing.update()
    assert growing.announcement.count is None
    write(8, 8)
    growing.update()
    growing.update()
    assert len(growing) == 8
    write(12, 12)
    drain(growing)
    while growing.end is None:
        growing.update(wait=0.1)
    assert growing.end is FeedEnd.ENDED
    assert np.array_equal(growing.scan().counts, frames)
    assert np.allclose(growing.scan().positions, places * 1e10)


def test_a_file_that_stays_short_is_silent_and_says_how_many_came(frames, tmp_path):
    path = tmp_path / "short.raw"
    frames[:7].tofile(path)
    knobs = {**SETUP, "shape": [12, 9, 7], "dtype": "uint16"}
    growing = open_growing(path, setup=knobs, silence=0.05)
    while growing.end is None:
        growing.update(wait=0.1)
    assert growing.end is FeedEnd.SILENT
    assert "nothing comes any more after 7 of 12 patterns" in growing.describe()
    assert growing.arrivals.lost == 5


def test_a_file_that_does_not_come_and_one_that_lacks_its_energy_are_one_sentence_each(frames, tmp_path):
    with pytest.raises(BadInput, match=r"announces no scan within 0.05 s: .* does not exist yet"):
        open_growing(tmp_path / "none.raw", setup=SETUP, patience=0.05)
    np.save(tmp_path / "bare.npy", frames)
    with pytest.raises(BadInput, match="energy"):
        open_growing(tmp_path / "bare.npy", setup={"step": "1 nm", "grid": [3, 4], "angle": "1 mrad"})


WRITER = """
import sys, time
import h5py, numpy as np
frames = np.load(sys.argv[2])
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    file["xy"] = np.indices((3, 4)).reshape(2, -1).T * 1e-7
    data = file.create_dataset("frames", (1, 9, 7), "u2", maxshape=(None, 9, 7), chunks=(1, 9, 7))
    data[0] = frames[0]
    file.swmr_mode = True
    print("armed", flush=True)
    for count in range(2, 13):
        sys.stdin.readline()
        data.resize(count, 0)
        data[-1] = frames[count - 1]
        file.flush()
        print(count, flush=True)
    sys.stdin.readline()
"""


def test_a_file_of_a_single_writer_with_many_readers_is_followed_while_it_is_written(frames, tmp_path):
    np.save(tmp_path / "frames.npy", frames)
    path = tmp_path / "swmr.h5"
    command = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(tmp_path / "frames.npy")]
    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "armed\n"
        knobs = {k: v for k, v in SETUP.items() if k not in ("grid", "step")}
        knobs |= {"positions": "xy", "positions_unit": "m", "dataset": "frames"}
        growing = open_growing(path, setup=knobs, silence=60)
        assert growing.announcement.count == COUNT
        seen = []
        for _ in range(11):
            writer.stdin.write("next\n")
            writer.stdin.flush()
            writer.stdout.readline()
            growing.update()
            seen.append(len(growing))
        drain(growing)
        assert seen == sorted(seen)
        assert seen[5] > 3  # while the file was open for writing
        assert growing.end is FeedEnd.COMPLETE
        assert np.array_equal(growing.scan().counts, frames)
        assert len(pl.read(path, format="hdf5", knobs=knobs)) == COUNT  # as `look` reads it meanwhile
    finally:
        writer.communicate("end\n", timeout=20)


def test_a_folder_of_frames_is_followed_by_their_numbers(frames, tmp_path):
    tifffile = pytest.importorskip("tifffile")

    def write(number):
        tifffile.imwrite(tmp_path / f"sample7_{number + 1:05d}.tif", frames[number])

    write(0)
    write(1)
    (tmp_path / "sample7_00003.tif").write_bytes((tmp_path / "sample7_00001.tif").read_bytes()[:90])
    growing = open_growing(tmp_path, setup=SETUP, silence=60)
    growing.update()
    growing.update()
    assert growing.numbers.tolist() == [0, 1]
    assert "1 files cannot be read" in " ".join(growing.describe())
    for number in (*range(2, 7), *range(8, COUNT)):
        write(number)
    drain(growing, 6)
    assert growing.arrivals.lost == 1
    assert "number 7" in " ".join(growing.describe())
    write(7)
    drain(growing, 6)
    growing.finish()
    assert np.array_equal(growing.scan().counts, frames)
    assert growing.scan().grid == GRID


def test_waiting_for_patterns_ends_with_the_scan(frames):
    growing = GrowingScan(Script((9, 7), COUNT, [block(frames, 0, 1)]))
    began = time.monotonic()
    growing.await_patterns(10)
    assert len(growing) == 2
    assert time.monotonic() - began < 2
    with pytest.raises(BadInput, match="brought no pattern that can be used"):
        GrowingScan(Script((9, 7), COUNT, [])).await_patterns(1)
