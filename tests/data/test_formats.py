"""The same patterns in every format, with every order of axes, read to the same scan and stay as they are."""

import inspect
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from scipy.io import savemat

from phaseloom.data import formats
from phaseloom.data.counts import ArrangedCounts, MappedCounts, SelectedCounts, load_counts
from phaseloom.data.formats.arrangement import Arrangement, ReversedAxes, arrange
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

KNOBS = {"energy": "80 keV", "angle": "1 mrad", "step": "0.4 A"}
SLOW, FAST, Y, X = 3, 4, 5, 6
CUBE = np.random.default_rng(1).integers(0, 200, (SLOW, FAST, Y, X)).astype(np.uint16)

Writer = Callable[[Path, np.ndarray], Path]


def h5(folder: Path, data: np.ndarray) -> Path:
    with h5py.File(folder / "s.h5", "w") as file:
        file["frames"] = data
    return folder / "s.h5"


def h5_chunked(folder: Path, data: np.ndarray) -> Path:
    with h5py.File(folder / "c.h5", "w") as file:
        file.create_dataset("deep/frames", data=data, chunks=True, compression="gzip")
    return folder / "c.h5"


def mat7(folder: Path, data: np.ndarray) -> Path:
    """As MATLAB writes it: a user block with a text, and axes the other way round."""
    with h5py.File(folder / "seven.mat", "w", userblock_size=512) as file:
        file["dp"] = data.T
    with (folder / "seven.mat").open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file")
    return folder / "seven.mat"


def mat5(folder: Path, data: np.ndarray) -> Path:
    savemat(folder / "five.mat", {"dp": data, "note": "a text"})
    return folder / "five.mat"


def mat5_packed(folder: Path, data: np.ndarray) -> Path:
    savemat(folder / "packed.mat", {"dp": data}, do_compression=True)
    return folder / "packed.mat"


def npy(folder: Path, data: np.ndarray) -> Path:
    np.save(folder / "s.npy", data)
    return folder / "s.npy"


def npy_fortran(folder: Path, data: np.ndarray) -> Path:
    np.save(folder / "f.npy", np.asfortranarray(data))
    return folder / "f.npy"


def npz(folder: Path, data: np.ndarray) -> Path:
    np.savez(folder / "s.npz", counts=data)
    return folder / "s.npz"


def tif(folder: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(folder / "s.tif", data, photometric="minisblack")
    return folder / "s.tif"


def tif_packed(folder: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(folder / "packed.tiff", data, compression="zlib", photometric="minisblack")
    return folder / "packed.tiff"


def zarr_array(folder: Path, data: np.ndarray) -> Path:
    array = zarr.create_array(folder / "s.zarr", shape=data.shape, dtype=data.dtype, chunks=(2,) * data.ndim)
    array[...] = data
    return folder / "s.zarr"


def zarr_group(folder: Path, data: np.ndarray) -> Path:
    group = zarr.create_group(folder / "g.zarr", zarr_format=2)
    group.create_array("deep/frames", shape=data.shape, dtype=data.dtype)[...] = data
    return folder / "g.zarr"


WRITERS = (h5, h5_chunked, mat7, mat5, mat5_packed, npy, npy_fortran, npz, tif, tif_packed)
WRITERS += (zarr_array, zarr_group)
LAZY = (h5, h5_chunked, mat7, npy, npy_fortran, tif, tif_packed, zarr_array, zarr_group)


def all_of(scan: Scan4D) -> np.ndarray:
    return scan.counts[np.arange(len(scan))]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8", "i4"])
def test_a_raster_reads_alike_from_every_format_and_keeps_its_type(write, dtype: str, tmp_path: Path) -> None:
    scan = formats.read(write(tmp_path, CUBE.astype(dtype)), knobs=KNOBS)
    assert scan.grid == (SLOW, FAST)
    assert scan.counts.dtype == dtype
    np.testing.assert_array_equal(all_of(scan), CUBE.reshape(-1, Y, X).astype(dtype))
    np.testing.assert_array_equal(scan.counts[np.array([7, 7, 2])], all_of(scan)[[7, 7, 2]])
    assert isinstance(scan.counts, np.ndarray) == (write not in LAZY) or write in (mat5, mat5_packed)


@pytest.mark.parametrize("write", LAZY)
def test_patterns_in_a_file_become_an_array_where_numpy_asks_for_one(write: Writer, tmp_path: Path) -> None:
    scan = formats.read(write(tmp_path, CUBE), knobs=KNOBS)
    wanted = CUBE.reshape(-1, Y, X)
    mapped = MappedCounts(scan.counts, lambda stack: 2 * stack, scan.counts.shape, scan.counts.dtype)
    chosen = SelectedCounts(scan.counts, np.array([3, 1]))
    np.testing.assert_array_equal(np.asarray(scan.counts), wanted)
    np.testing.assert_array_equal(np.asarray(mapped), 2 * wanted)
    np.testing.assert_array_equal(np.array(chosen, np.float32), wanted[[3, 1]])
    assert np.asarray(scan.counts).dtype == np.uint16
    assert np.mean(scan.counts) == wanted.mean()


@pytest.mark.parametrize("write", WRITERS)
def test_three_axes_get_their_grid_from_the_settings(write: Writer, tmp_path: Path) -> None:
    scan = formats.read(write(tmp_path, CUBE.reshape(-1, Y, X)), knobs={**KNOBS, "grid": (4, 3)})
    assert scan.grid == (4, 3)
    np.testing.assert_array_equal(all_of(scan), CUBE.reshape(-1, Y, X))


@pytest.mark.parametrize("write", WRITERS)
def test_a_stated_grid_must_be_the_raster_of_four_axes(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, CUBE)
    assert formats.read(path, knobs={**KNOBS, "grid": [SLOW, FAST]}).grid == (SLOW, FAST)
    for grid in ([FAST, SLOW], [2, 6], [1, 5]):
        with pytest.raises(BadInput, match=rf"grid: {grid[0]}x{grid[1]} is not the raster 3x4 of"):
            formats.read(path, knobs={**KNOBS, "grid": grid})


def test_a_stated_grid_must_be_the_raster_beside_a_table_of_positions(tmp_path: Path) -> None:
    np.save(tmp_path / "places.npy", np.zeros((SLOW * FAST, 2)))
    knobs = {"energy": "80 keV", "angle": "1 mrad", "positions": "places.npy"}
    with pytest.raises(BadInput, match="grid: 4x3 is not the raster 3x4"):
        formats.read(npy(tmp_path, CUBE), knobs={**knobs, "grid": [4, 3]})


def test_the_numbers_of_an_archive_do_not_contradict_a_selection(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", counts=CUBE, n_slow=SLOW, n_fast=FAST)
    scan = formats.read(tmp_path / "s.npz", knobs={**KNOBS, "selection": "1:"})
    assert scan.grid == (SLOW - 1, FAST)


@pytest.mark.parametrize("write", WRITERS)
def test_selection_then_order_then_shape(write: Writer, tmp_path: Path) -> None:
    stored = CUBE.transpose(3, 2, 0, 1)
    knobs = {**KNOBS, "selection": "1:, ::2, :, -3:", "permute": (2, 3, 1, 0), "reshape": (-1, 3, 5)}
    wanted = stored[1:, ::2, :, -3:].transpose(2, 3, 1, 0).reshape(-1, 3, 5)
    scan = formats.read(write(tmp_path, stored), knobs={**knobs, "grid": (3, 3)})
    np.testing.assert_array_equal(all_of(scan), wanted)
    np.testing.assert_array_equal(scan.counts[np.array([5, 1])], wanted[[5, 1]])
    assert scan.counts.dtype == np.uint16


@pytest.mark.parametrize("write", [h5, npy, zarr_array, mat7])
@pytest.mark.parametrize("seed", range(6))
def test_any_order_and_cut_equals_numpy(write: Writer, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    order = tuple(rng.permutation(4).tolist())
    steps = rng.integers(1, 3, 4)
    selection = [
        None if s == 1 and rng.random() < 0.5 else [int(rng.integers(0, 2)), None, int(s)] for s in steps
    ]
    cut = tuple(slice(None) if part is None else slice(*part) for part in selection)
    wanted = CUBE[cut].transpose(order)
    knobs = {**KNOBS, "selection": selection, "permute": order}
    scan = formats.read(write(tmp_path, CUBE), knobs=knobs)
    assert scan.grid == wanted.shape[:2]
    np.testing.assert_array_equal(all_of(scan), wanted.reshape(-1, *wanted.shape[2:]))


@pytest.mark.parametrize("lead", [(12,), (2, 6), (3, 2, 2)])
@pytest.mark.parametrize("pattern", [(30,), (5, 6), (6, 5), (2, 3, 5)])
def test_patterns_may_be_kept_as_rows_of_numbers(lead: tuple, pattern: tuple) -> None:
    stored = CUBE.reshape(*lead, *pattern)
    how = Arrangement(reshape=(SLOW, -1, Y, X))
    for source in (stored, ReversedAxes(stored.T), np.asfortranarray(stored)):
        counts, raster = arrange(source, "a", how)
        assert raster == (SLOW, FAST)
        np.testing.assert_array_equal(counts[np.arange(12)], CUBE.reshape(-1, Y, X))


def test_both_versions_of_matlab_agree_on_every_axis(tmp_path: Path) -> None:
    knobs = {**KNOBS, "permute": (2, 3, 0, 1), "selection": "1:, :, :, 1:"}
    stored = CUBE.transpose(2, 3, 0, 1)
    five, seven = (formats.read(write(tmp_path, stored), knobs=knobs) for write in (mat5, mat7))
    np.testing.assert_array_equal(all_of(five), all_of(seven))
    np.testing.assert_array_equal(all_of(five), CUBE[:, 1:, 1:].reshape(-1, Y - 1, X))
    assert five.grid == seven.grid == (SLOW, FAST - 1)


def test_a_shape_of_as_many_values_is_taken_and_any_other_refused():
    stored = CUBE.reshape(-1, Y, X)
    counts, raster = arrange(stored, "a.npy", Arrangement(reshape=CUBE.shape))
    assert raster == CUBE.shape[:2]
    np.testing.assert_array_equal(counts[np.arange(len(counts))], stored)
    with pytest.raises(BadInput, match="does not hold the"):
        arrange(stored, "a.npy", Arrangement(reshape=(CUBE.shape[0] + 1, *CUBE.shape[1:])))


def test_members_of_matlab_files(tmp_path: Path) -> None:
    places, good = np.arange(24.0).reshape(12, 2), np.ones((Y, X))
    good[2, 3] = 0
    frames = CUBE.reshape(-1, Y, X)
    savemat(tmp_path / "a.mat", {"run": {"dp": frames}, "ppXY": places, "good": good})
    with h5py.File(tmp_path / "b.mat", "w", userblock_size=512) as file:
        file["run/dp"], file["ppXY"], file["good"] = frames.T, places.T, good.T
    knobs = {**KNOBS, "step": None, "key": "run.dp", "positions": "ppXY", "mask": "good"}
    for name in ("a.mat", "b.mat"):
        scan = formats.read(tmp_path / name, knobs={**knobs, "positions_unit": "nm"})
        np.testing.assert_array_equal(scan.positions, places * 10)
        assert scan.mask.sum() == Y * X - 1
        np.testing.assert_array_equal(all_of(scan), frames)


def test_members_of_zarr_stores(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    for name, values in {"frames": CUBE, "dark": CUBE[:1], "where": np.arange(24.0).reshape(12, 2)}.items():
        group.create_array(name, shape=values.shape, dtype=values.dtype)[...] = values
    with pytest.raises(BadInput, match="several stacks: name one with dataset"):
        formats.read(tmp_path / "a.zarr", knobs=KNOBS)
    knobs = {**KNOBS, "step": None, "dataset": "frames", "positions": "where"}
    scan = formats.read(tmp_path / "a.zarr", knobs=knobs)
    assert scan.positions[-1].tolist() == [22.0, 23.0]


def test_a_zarr_store_in_one_zip_file(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "s.zip", mode="w") as store:
        zarr.create_array(store, data=CUBE)
    np.testing.assert_array_equal(
        all_of(formats.read(tmp_path / "s.zip", knobs=KNOBS)), CUBE.reshape(-1, Y, X)
    )


def test_empad_frames_have_two_rows_that_are_no_detector(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((6, 130, 128)).astype(np.float32)
    frames.tofile(tmp_path / "scan_x2_y3.raw")
    knobs = {**KNOBS, "shape": (2, 3, 128, 128), "gap": 1024, "selection": ":, 1:, 32:-32", "step": "0.4 A"}
    scan = formats.read(tmp_path / "scan_x2_y3.raw", knobs=knobs)
    assert scan.grid == (2, 2)
    np.testing.assert_array_equal(all_of(scan), frames[[1, 2, 4, 5], 32:96, :128])


@pytest.mark.parametrize("write", WRITERS)
def test_a_side_car_says_what_the_file_does_not(write: Writer, tmp_path: Path) -> None:
    path = write(tmp_path, CUBE)
    with pytest.raises(BadInput, match="energy"):
        formats.read(path)
    text = 'energy: 80 keV\nangle: 1 mrad\nstep: 0.4 A\nselection: "1:"\n'
    path.with_name(f"{path.name}.yaml").write_text(text)
    assert formats.read(path).grid == (SLOW - 1, FAST)


def test_negative_values_are_clipped_or_kept(tmp_path: Path) -> None:
    values = CUBE.astype(np.float32) - 50
    for write in (h5, npz, npy, mat5):
        path = write(tmp_path, values)
        clipped = all_of(formats.read(path, knobs=KNOBS))
        np.testing.assert_array_equal(clipped, np.maximum(values, 0).reshape(-1, Y, X))
        kept = all_of(formats.read(path, knobs={**KNOBS, "negative": "keep"}))
        np.testing.assert_array_equal(kept, values.reshape(-1, Y, X))


def test_negative_integers_late_in_a_lazy_stack_are_clipped_too(tmp_path: Path) -> None:
    values = np.ones((2000, 2, 2), np.int16)
    values[1001] = -3
    scan = formats.read(h5(tmp_path, values), knobs={**KNOBS, "grid": (40, 50)})
    assert scan.counts[np.array([1001])].max() == 0
    assert scan.counts.dtype == np.int16


def test_reading_lazily_touches_only_what_is_asked_for(tmp_path: Path) -> None:
    class Watched:
        def __init__(self, data: np.ndarray):
            self.data, self.read = data, 0
            self.shape, self.dtype = data.shape, data.dtype

        def __getitem__(self, block):
            part = self.data[block]
            self.read += part.size
            return part

    watched = Watched(CUBE)
    counts, _ = arrange(watched, "a", Arrangement(selection=":, :, 1:3, ::3"))
    assert watched.read == 0
    counts[np.array([0, 1, 2, 5])]
    assert watched.read == 4 * 2 * 2


def test_what_is_read_lazily_can_be_sent_to_another_process(tmp_path: Path) -> None:
    import pickle

    for write in LAZY:
        if write in (npy, npy_fortran, tif):
            continue  # memory maps are sent whole
        scan = formats.read(write(tmp_path, CUBE), knobs=KNOBS)
        again = pickle.loads(pickle.dumps(scan.counts))
        np.testing.assert_array_equal(again[np.arange(12)], all_of(scan))


def test_all_array_formats_share_their_knobs() -> None:
    import importlib

    shared = None
    for name in ("hdf5", "mat", "npy", "npz", "raw", "tif", "zarr"):
        read = importlib.import_module(f"phaseloom.data.formats.{name}").read
        knobs = [p for p in inspect.signature(read).parameters.values() if p.kind is p.KEYWORD_ONLY]
        plain = [(p.name, p.default) for p in knobs[:17] if p.name not in ("energy", "positions_unit")]
        shared = shared or plain
        assert plain == shared
        for knob in knobs:
            assert f"        {knob.name}: " in read.__doc__, (name, knob.name)


def test_axes_in_memory_are_viewed_not_copied() -> None:
    counts, _ = arrange(CUBE, "a", Arrangement(reshape=(-1, Y, X)))
    assert np.shares_memory(counts, CUBE)
    turned, _ = arrange(CUBE, "a", Arrangement(permute=(2, 3, 0, 1)))
    assert isinstance(turned, ArrangedCounts)
    assert turned.source is CUBE
    np.testing.assert_array_equal(load_counts(turned), CUBE.transpose(2, 3, 0, 1).reshape(-1, SLOW, FAST))


def truncated(write: Writer) -> Writer:
    def cut(folder: Path, data: np.ndarray) -> Path:
        path = write(folder, np.repeat(data, 50, 0))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 8])
        return path

    return cut


def file(name: str, content: bytes) -> Writer:
    def write(folder: Path, data: np.ndarray) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def empty_store(folder: Path, data: np.ndarray) -> Path:
    zarr.create_group(folder / "empty.zarr")
    return folder / "empty.zarr"


def broken_store(folder: Path, data: np.ndarray) -> Path:
    path = zarr_array(folder, data)
    (path / "zarr.json").write_text("{not json")
    return path


def text_mat(folder: Path, data: np.ndarray) -> Path:
    savemat(folder / "t.mat", {"note": "text"})
    return folder / "t.mat"


def struct_mat(folder: Path, data: np.ndarray) -> Path:
    savemat(folder / "t.mat", {"dp": {"a": 1}})
    return folder / "t.mat"


def complex_tif(folder: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(folder / "c.tif", data.astype(np.complex64), photometric="minisblack")
    return folder / "c.tif"


def rgb_tif(folder: Path, data: np.ndarray) -> Path:
    tifffile.imwrite(folder / "c.tif", np.zeros((8, 9), np.uint8))
    return folder / "c.tif"


BROKEN: dict[str, tuple[Writer, dict]] = {
    "a text called mat": (file("s.mat", b"1 2 3\n" * 99), {}),
    "the head of a mat": (truncated(mat5), {}),
    "the head of a mat 7.3": (truncated(mat7), {}),
    "a mat without stacks": (text_mat, {}),
    "a mat with a structure for data": (struct_mat, {"key": "dp"}),
    "a mat with an unknown field": (struct_mat, {"key": "dp.b"}),
    "a mat with an unknown key": (mat5, {"key": "dq"}),
    "a mat 7.3 with an unknown key": (mat7, {"key": "dq"}),
    "a text called tif": (file("s.tif", b"1 2 3\n" * 99), {}),
    "the head of a tif": (truncated(tif), {}),
    "complex tif": (complex_tif, {}),
    "tif of one image": (rgb_tif, {}),
    "an empty store": (empty_store, {}),
    "a broken store": (broken_store, {}),
    "a store with an unknown array": (zarr_group, {"dataset": "deep/frame"}),
    "a zip that is no store": (file("s.zip", b"PK\x05\x06" + bytes(18)), {}),
    "too many slices": (h5, {"selection": ":,:,:,:,:"}),
    "a selection that leaves nothing": (h5, {"selection": "5:"}),
    "a selection of words": (h5, {"selection": "all"}),
    "a selection backwards": (h5, {"selection": "::-1"}),
    "a selection of one number": (h5, {"selection": "3, :"}),
    "a selection list of one number": (h5, {"selection": [[3]]}),
    "an order of three axes": (h5, {"permute": (0, 1, 2)}),
    "an order with one twice": (h5, {"permute": (0, 1, 2, 2)}),
    "a shape that does not fit": (h5, {"reshape": (7, 5, 6)}),
    "a shape with two unknowns": (h5, {"reshape": (-1, -1, 6)}),
    "a shape with a zero": (h5, {"reshape": (0, 5, 6)}),
    "a shape that cuts patterns": (h5, {"reshape": (40, 3, 3), "permute": (2, 3, 0, 1)}),
    "a shape of two axes": (h5, {"reshape": (-1, 30)}),
    "an unknown rule for negatives": (h5, {"negative": "maybe"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_or_wrong_knob_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    write, knobs = BROKEN[name]
    path = write(tmp_path, CUBE)
    with pytest.raises(BadInput) as caught:
        formats.read(path, knobs={**KNOBS, **knobs})
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a folder"):
        formats.read(tmp_path, knobs=KNOBS)


def test_mapped_patterns_of_a_file_stay_lazy_through_many_steps(tmp_path: Path) -> None:
    from phaseloom.data import prepare

    scan = formats.read(h5(tmp_path, CUBE), knobs={**KNOBS, "permute": (0, 1, 3, 2)})
    scan = prepare.flip(prepare.crop(scan.select(np.arange(1, 9)), to=(4, 4)), axis="x")
    assert isinstance(scan.counts, MappedCounts)
    assert scan.counts.dtype == np.uint16
