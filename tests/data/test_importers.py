"""Reconstructions of other programs arrive with the right way up, in place and in our units."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import savemat

from phaseloom.data.importers import Imported, find_program, read, read_positions
from phaseloom.errors import BadInput

rng = np.random.default_rng(3)
PLACES = np.array([[3, 4], [3, 9], [8, 4], [8, 10], [5, 6]])
SHIFTS = np.array([[0.25, -0.5], [0, 0.125], [-0.25, 0], [0.5, 0.5], [0, 0]])


def complex_noise(*shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)


def written(path, members):
    with h5py.File(path, "w") as file:
        for name, value in members.items():
            file[name] = value
    return path


def ptyrad_members(window=(6, 6), **more):
    amplitude = 1 + 0.1 * rng.normal(size=(2, 3, 20, 25)).astype(np.float32)
    phase = 0.3 * rng.normal(size=(2, 3, 20, 25)).astype(np.float32)
    members = {
        "optimizable_tensors/obja": amplitude,
        "optimizable_tensors/objp": phase,
        "optimizable_tensors/probe": complex_noise(2, *window),
        "optimizable_tensors/probe_pos_shifts": SHIFTS.astype(np.float32),
        "optimizable_tensors/obj_tilts": np.array([[2.0, -1.0]], np.float32),
        "optimizable_tensors/slice_thickness": np.float32(8.0),
        "model_attributes/crop_pos": PLACES.astype(np.int32),
        "model_attributes/omode_occu": np.array([0.75, 0.25], np.float32),
        "model_attributes/dx": np.float32(0.5),
        "model_attributes/lambd": np.float32(0.0417),
        "model_attributes/N_scan_slow": np.int32(5),
        "model_attributes/N_scan_fast": np.int32(1),
        "model_attributes/scan_affine": "__NONE__",
    }
    return {k: v for k, v in (members | more).items() if v is not None}


def test_a_ptyrad_model_is_read_whole(tmp_path):
    members = ptyrad_members()
    path = written(tmp_path / "model_iter0010.hdf5", members)
    found = read(path)
    assert find_program(path) == "ptyrad"
    np.testing.assert_allclose(np.abs(found.object), members["optimizable_tensors/obja"], rtol=1e-5)
    np.testing.assert_allclose(np.angle(found.object), members["optimizable_tensors/objp"], atol=1e-5)
    np.testing.assert_array_equal(found.probe, members["optimizable_tensors/probe"])
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS + 3) * 0.5)
    np.testing.assert_allclose(found.tilts, [[2e-3, -1e-3]])
    np.testing.assert_allclose(found.occupancies, [0.75, 0.25])
    assert (found.origin, found.pixel, found.thickness) == ((0, 0), (0.5, 0.5), (8.0, 8.0))
    assert found.grid == (5, 1)
    assert found.wavelength == pytest.approx(0.0417)


def test_the_beam_of_ptyrad_is_in_the_middle_of_odd_and_oblong_windows(tmp_path):
    path = written(tmp_path / "m.hdf5", ptyrad_members(window=(7, 4)))
    np.testing.assert_allclose(read(path).positions, (PLACES + SHIFTS + [3, 2]) * 0.5)


def test_an_old_ptyrad_probe_of_real_pairs_is_complex(tmp_path):
    probe = complex_noise(2, 6, 6)
    pair = np.stack([probe.real, probe.imag], -1)
    path = written(tmp_path / "m.hdf5", ptyrad_members(**{"optimizable_tensors/probe": pair}))
    np.testing.assert_array_equal(read(path).probe, probe)


def test_an_x_ray_model_in_metres_comes_in_angstrom(tmp_path):
    metres = {"model_attributes/dx": 8e-9, "model_attributes/lambd": 1.4e-10}
    found = read(written(tmp_path / "m.hdf5", ptyrad_members(**metres)))
    assert found.pixel == pytest.approx((80, 80))
    assert found.wavelength == pytest.approx(1.4)
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS + 3) * 80)


def test_what_a_ptyrad_file_lacks_is_none(tmp_path):
    members = ptyrad_members(**{"model_attributes/crop_pos": None, "optimizable_tensors/obj_tilts": None})
    members |= {"model_attributes/dx": "__NONE__", "model_attributes/omode_occu": "__NONE__"}
    found = read(written(tmp_path / "m.hdf5", members))
    for name in ("positions", "origin", "pixel", "tilts", "occupancies", "grid"):
        assert getattr(found, name) is None, name
    assert found.object is not None


def test_a_pt_file_of_tensors_reads_like_the_hdf5(tmp_path):
    members = ptyrad_members(**{"model_attributes/scan_affine": None})
    tree: dict = {"optimizable_tensors": {}, "model_attributes": {}, "params": {"kv": 80, "x": [None]}}
    for name, value in members.items():
        group, key = name.split("/")
        tree[group][key] = torch.as_tensor(np.asarray(value))
    tree["model_attributes"] |= {"dx": 0.5, "N_scan_slow": 5}
    path = tmp_path / "model_iter0010.pt"
    torch.save(tree, path)
    one, other = read(path), read(written(tmp_path / "m.hdf5", members))
    for name in ("object", "probe", "positions", "tilts", "occupancies"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.grid, one.pixel, one.thickness) == (other.grid, other.pixel, other.thickness)


class Trap:
    """Would write a file if it were unpickled freely."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_a_pt_file_that_needs_more_than_tensors_is_refused(tmp_path):
    path, mark = tmp_path / "model.pt", tmp_path / "ran"
    torch.save({"optimizable_tensors": {"objp": torch.zeros(1)}, "params": Trap(mark)}, path)
    with pytest.raises(BadInput, match=r"model\.pt: holds more than tensors"):
        read(path)
    assert not mark.exists()


# PtychoShelves: MATLAB keeps (y, x, slice) with y running fastest; version 7.3 shows that reversed in HDF5.


def matlab73(path, tree):
    """Write a tree as MATLAB 7.3 does: axes reversed, complex as pairs, cells as references."""

    def put(group, name, value):
        if isinstance(value, dict):
            inner = group.create_group(name)
            inner.attrs["MATLAB_class"] = np.bytes_("struct")
            for key, item in value.items():
                put(inner, key, item)
            return
        if isinstance(value, list):
            store = group.file.require_group("#refs#")
            refs = []
            for item in value:
                key = f"a{len(store)}"
                put(store, key, item)
                refs.append(store[key].ref)
            cell = group.create_dataset(
                name, data=np.array(refs, dtype=object)[:, None], dtype=h5py.ref_dtype
            )
            cell.attrs["MATLAB_class"] = np.bytes_("cell")
            return
        array = np.atleast_2d(np.asarray(value)).transpose()
        if array.dtype.kind == "c":
            pair = np.empty(array.shape, [("real", array.real.dtype), ("imag", array.real.dtype)])
            pair["real"], pair["imag"] = array.real, array.imag
            array = pair
        group.create_dataset(name, data=array).attrs["MATLAB_class"] = np.bytes_("single")

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in tree.items():
            put(file, name, value)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    return path


def matlab5(path, tree):
    def celled(value):
        if isinstance(value, dict):
            return {key: celled(item) for key, item in value.items()}
        if isinstance(value, list):
            cell = np.empty((1, len(value)), object)
            for i, item in enumerate(value):
                cell[0, i] = item
            return cell
        return value

    savemat(path, celled(tree))
    return path


MATLAB = pytest.mark.parametrize("save", [matlab5, matlab73])


def shelves_tree(object, probe, dx=0.5):
    """As fold_slice saves: places (x, y); corners, counted from 1, at ceil(size/2 - N/2) + place."""
    return {
        "object": object.transpose(1, 2, 0),
        "probe": probe.transpose(1, 2, 0),
        "outputs": {"probe_positions": (PLACES + SHIFTS)[:, ::-1] - [7.0, 6.0]},
        "p": {
            "dx_spec": np.array([[dx, dx]]),
            "lambda": 0.02,
            "multi_slice_param": {"z_distance": np.array([[10.0, 12.0, np.inf]])},
        },
    }


@MATLAB
def test_both_matlab_versions_give_the_same_upright_model(tmp_path, save):
    object, probe = complex_noise(3, 21, 26), complex_noise(2, 8, 6)
    found = read(save(tmp_path / "Niter100.mat", shelves_tree(object, probe)))
    np.testing.assert_allclose(found.object[0], object)
    np.testing.assert_allclose(found.probe, probe)
    # rows: corner ceil(21/2 - 8/2) - 1 = 6, middle of the window 4; columns: ceil(26/2 - 6/2) - 1 = 9 and 3
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS - [6, 7] + [6 + 4, 9 + 3]) * 0.5)
    assert (found.pixel, found.origin, found.thickness) == ((0.5, 0.5), (0, 0), (10.0, 12.0))
    assert found.wavelength == pytest.approx(0.02)
    assert found.source.endswith("PtychoShelves")


@MATLAB
def test_variable_probes_are_not_taken_for_modes(tmp_path, save):
    probe = complex_noise(8, 6, 1, 3)
    tree = {"object": complex_noise(20, 25), "probe": probe}
    found = read(save(tmp_path / "m.mat", tree))
    assert found.object.shape == (1, 1, 20, 25)
    np.testing.assert_array_equal(found.object[0, 0], tree["object"])
    np.testing.assert_array_equal(found.probe, probe[None, :, :, 0, 0])
    assert (found.positions, found.pixel, found.thickness) == (None, None, ())


@MATLAB
def test_slices_and_modes_in_cells_of_outputs_are_found(tmp_path, save):
    object, probe = complex_noise(3, 21, 26), complex_noise(2, 8, 6, 1, 2)
    tree = shelves_tree(object, probe[..., 0, 0])
    del tree["object"], tree["probe"], tree["p"]["dx_spec"]
    tree["outputs"] |= {"object": list(object), "probe": list(probe), "pixel_size": np.array([[8e-9, 8e-9]])}
    found = read(save(tmp_path / "m.mat", tree))
    np.testing.assert_array_equal(found.object[0], object)
    np.testing.assert_array_equal(found.probe, probe[..., 0, 0])
    assert found.pixel == pytest.approx((80, 80))
    np.testing.assert_allclose(found.positions[0], np.array([3.25 + 4, 3.5 + 5]) * 80)


@MATLAB
def test_the_object_of_the_first_engines_has_its_slices_in_the_fourth_axis(tmp_path, save):
    object, probe = complex_noise(3, 21, 26), complex_noise(8, 6)
    tree = {"object": object.transpose(1, 2, 0)[:, :, None], "probe": probe}
    tree["p"] = {
        "positions": PLACES + SHIFTS,
        "dx_spec": np.array([[0.5, 0.5]]),
        "scan": {"ny": 5.0, "nx": 1.0},
    }
    found = read(save(tmp_path / "x_recons.mat", tree))
    np.testing.assert_array_equal(found.object[0], object)
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS + [4, 3]) * 0.5)
    assert found.grid == (5, 1)


# py4DSTEM


def test_the_fork_that_ptyrad_knows(tmp_path):
    object, probe = complex_noise(3, 20, 25), complex_noise(2, 8, 6)
    members = {"object": object, "probe": probe, "positions_px": PLACES + SHIFTS}
    path = written(tmp_path / "model_iter0005.hdf5", members)
    found = read(path, pixel=0.25)
    assert find_program(path) == "py4dstem"
    np.testing.assert_array_equal(found.object[0], object)
    np.testing.assert_array_equal(found.probe, probe)
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS) * 0.25)
    assert read(path).positions is None
    assert read(path).pixel is None


@pytest.mark.parametrize("sort", ["complex", "potential"])
def test_an_emdfile_tree(tmp_path, sort):
    phase, probe = 0.3 * rng.normal(size=(3, 20, 25)), complex_noise(2, 7, 6)
    object = np.exp(1j * phase)
    root = "ptychography_root/mixedstate_multislice"
    note = f"{root}/metadatabundle"
    path = written(
        tmp_path / "any.h5",
        {
            f"{root}/_object_emd/data": phase if sort == "potential" else object,
            f"{root}/_object_emd/dim0": np.arange(3),
            f"{root}/_probe_emd/data": np.fft.ifftshift(probe, (-2, -1)),
            f"{note}/instantiation_metadata/object_type": np.bytes_(sort),
            f"{note}/instantiation_metadata/energy": 80e3,
            f"{note}/instantiation_metadata/slice_thicknesses": np.array([4.0, 5.0]),
            f"{note}/preprocess_metadata/positions_px": PLACES + SHIFTS,
            f"{note}/preprocess_metadata/sampling": (0.25, 0.2),
            f"{note}/preprocess_metadata/positions_mask": np.bytes_("_None"),
        },
    )
    found = read(path)
    np.testing.assert_allclose(found.object[0], object, rtol=1e-5)
    np.testing.assert_array_equal(found.probe, probe)
    np.testing.assert_allclose(found.positions, (PLACES + SHIFTS) * [0.25, 0.2])
    assert (found.pixel, found.thickness) == ((0.25, 0.2), (4.0, 5.0))
    assert found.wavelength == pytest.approx(0.0417572, abs=1e-6)


# positions alone


def test_positions_from_tables_and_fold_slice(tmp_path):
    where = PLACES * 0.4
    np.save(tmp_path / "p.npy", where)
    np.savetxt(tmp_path / "p.csv", where, delimiter=",")
    np.savetxt(tmp_path / "p.txt", where)
    pair = {"ppX": where[None, :, 1], "ppY": where[None, :, 0]}
    written(tmp_path / "para.hdf5", pair)
    written(tmp_path / "metres.hdf5", {name: value * 1e-10 for name, value in pair.items()})
    savemat(tmp_path / "p.mat", pair)
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(read_positions(path), where, err_msg=path.name)


def test_a_stated_unit_of_positions_wins(tmp_path):
    with h5py.File(tmp_path / "p.hdf5", "w") as file:
        file["ppX"], file["ppY"] = PLACES[:, 1] * 0.1, PLACES[:, 0] * 0.1
        file["ppX"].attrs["units"] = "nm"
    np.testing.assert_allclose(read_positions(tmp_path / "p.hdf5"), PLACES)


def test_positions_from_a_model(tmp_path):
    path = written(tmp_path / "m.hdf5", ptyrad_members())
    np.testing.assert_array_equal(read_positions(path), read(path).positions)


# what is wrong is said in a sentence


def broken_members(**more):
    return lambda path: written(path, ptyrad_members(**{k.replace("__", "/"): v for k, v in more.items()}))


def with_mark(path):
    with h5py.File(path, "w") as file:
        file.attrs["phaseloom_result"] = 1


WRONG = {
    "shifts": (broken_members(optimizable_tensors__probe_pos_shifts=np.ones((4, 2))), "differ in shape"),
    "other object": (broken_members(optimizable_tensors__obja=np.ones((1, 3, 20, 24))), "differ in shape"),
    "no obja": (broken_members(optimizable_tensors__obja=None), r"lacks optimizable_tensors/obja"),
    "neither": (lambda p: written(p, {"optimizable_tensors/x": 1}), "objp and /probe"),
    "flat object": (
        broken_members(optimizable_tensors__objp=np.ones((4, 4)), optimizable_tensors__obja=np.ones((4, 4))),
        r"object: shape \(4, 4\) does not have axes \(mode, slice, y, x\)",
    ),
    "occupancies": (
        broken_members(model_attributes__omode_occu=np.ones(5)),
        "5 values but there are 2 object",
    ),
    "tilts": (broken_members(optimizable_tensors__obj_tilts=np.ones((3, 2))), "does not fit 5 positions"),
    "not finite": (broken_members(optimizable_tensors__probe=np.full((1, 4, 4), np.nan)), "not finite"),
    "data": (lambda p: written(p, {"dp": np.ones((3, 4, 4))}), "not a known reconstruction"),
    "text": (
        lambda p: p.write_text("hello world, this is no file of numbers"),
        "not a known reconstruction",
    ),
    "truncated": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "cannot be read as a .pt"),
    "mat": (lambda p: p.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(3)), "MATLAB"),
    "mat data": (lambda p: savemat(p, {"dp": np.ones((3, 4, 4))}, appendmat=False), "lacks object and probe"),
    "result": (with_mark, "/object: is missing: the file is not whole"),
    "emd": (lambda p: written(p, {"a/_object_emd/data": np.ones((4, 4))}), "lacks _probe_emd/data"),
    "no probe": (lambda p: written(p, {"object": np.ones((4, 4))}), "lacks probe"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_bad_file_is_one_sentence(tmp_path, case):
    make, words = WRONG[case]
    path = tmp_path / "bad.file"
    make(path)
    with pytest.raises(BadInput, match=words) as caught:
        read(path)
    assert str(caught.value).startswith("bad.file")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"ppX": np.ones(3), "ppY": np.ones(4)}, "values in ppX and ppY differ"),
        (
            {"object": np.ones((4, 4)), "probe": np.ones((2, 2)), "positions_px": np.ones((3, 2))},
            "no positions",
        ),
    ],
)
def test_bad_positions_are_one_sentence(tmp_path, members, words):
    with pytest.raises(BadInput, match=words):
        read_positions(written(tmp_path / "p.hdf5", members))


def test_imported_is_a_plain_value():
    found = Imported(source="x", object=np.ones((1, 1, 4, 4)) + 0j)
    assert found.probe is None
