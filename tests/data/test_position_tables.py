"""Positions in text files of all habits; what does not fit is one sentence."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.data import formats
from phaseloom.data.formats.quantities.tables import read_positions_table, read_table
from phaseloom.errors import BadInput

WANTED = [[2.0, 0.5], [2.0, 1.5], [4.0, 0.5]]


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("2 .5\n2 1.5\n4 .5\n", "A"),
        ("2,.5\n2,1.5\n4,.5\n", "A"),
        ("2;.5\n2;1.5\n4;.5", "A"),
        ("2\t.5\r\n2\t1.5\r\n4\t.5\r\n", "A"),
        ("x,y\n0.5,2\n1.5,2\n0.5,4\n", "A"),
        ("# x y\n0.5 2\n1.5 2\n0.5 4\n", "A"),
        ("# made by a stage\n\n# no x y\n0 0.5 2 # first\n1 1.5 2\n2 0.5 4\n", "A"),
        ("no, x (um), y (um)\n1, .5, 2\n2, 1.5, 2\n3, .5, 4\n", "um"),
        ("x y\nnm nm\n.5 2\n1.5 2\n.5 4\n", "nm"),
        ("x [mm] y [mm]\n.5 2\n1.5 2\n.5 4\n", "mm"),
        ('"x_m","y_m"\n.5,2\n1.5,2\n.5,4\n', "m"),
        ("% pos_y pos_x\n2 .5\n2 1.5\n4 .5\n", "A"),
        ("\ufeffrow,column\n2,.5\n2,1.5\n4,.5\n", "A"),
        ("2,.5,\n2,1.5,\n4,.5,\n", "A"),
    ],
)
def test_tables_of_all_habits(text: str, unit: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    values, found = read_positions_table(tmp_path / "p.txt")
    assert values.tolist() == WANTED
    assert found == unit


@pytest.mark.parametrize("columns", [(3, 1), ("up", "along"), (-1, "along"), ("3", "1")])
def test_columns_are_chosen_by_name_or_number(columns: tuple, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("no,along,current,up\n1,.5,9,2\n2,1.5,9,2\n3,.5,9,4\n")
    assert read_positions_table(tmp_path / "p.csv", columns)[0].tolist() == WANTED
    with pytest.raises(BadInput, match=r"has 4 columns \(no, along, current, up\): name the two"):
        read_positions_table(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("text", "columns", "said"),
    [
        ("1 2\n3\n", None, "line 2: 3 is not a row of 2 numbers"),
        ("1 2\n3 x\n", None, "line 2: 3 x is not a row"),
        ("", None, "is empty"),
        ("x y\n", None, "is not a table of numbers"),
        ("\0\0\0\0", None, "is not text"),
        ("x (um),y (nm)\n1,2\n", None, "units of positions: and nm and um differ|nm and um differ"),
        ("x,y\n1,2\n", ("z", "x"), "columns: z is not a column"),
        ("1,2\n", (0, 5), "columns: 5 is not a column"),
    ],
)
def test_what_is_no_table_is_one_sentence(
    text: str, columns: tuple | None, said: str, tmp_path: Path
) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        read_positions_table(tmp_path / "p.txt", columns)
    assert "\n" not in str(caught.value)


def test_a_scan_takes_positions_and_their_unit_from_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 8, 8)))
    (tmp_path / "p.csv").write_text("t,x (nm),y (nm)\n0,.5,2\n1,1.5,2\n2,.5,4\n")
    knobs = {"energy": "80 keV", "angle": "1 mrad", "positions": "p.csv"}
    scan = formats.read(tmp_path / "a.npy", knobs=knobs)
    assert scan.positions.tolist() == [[20, 5], [20, 15], [40, 5]]
    scan = formats.read(tmp_path / "a.npy", knobs={**knobs, "columns": ["x", "t"]})
    assert scan.positions.tolist() == [[5, 0], [15, 10], [5, 20]]
    with pytest.raises(BadInput, match="3 rows but there are 2 patterns: give one row for each"):
        formats.read(tmp_path / "a.npy", knobs={**knobs, "selection": ":2"})


def test_read_table_keeps_all_columns(tmp_path: Path) -> None:
    (tmp_path / "p.dat").write_text("a b c\n1 2 3\n4 5 6\n")
    assert read_table(tmp_path / "p.dat").tolist() == [[1, 2, 3], [4, 5, 6]]


def test_scans_of_slac(tmp_path: Path) -> None:
    patterns = np.random.default_rng(0).random((6, 5, 3))
    places = np.array([[0, 1e-6], [1e-6, 1e-6], [0, 2e-6]])
    np.savez(tmp_path / "a.npz", diffraction=patterns, xcoords_start=places[:, 0], ycoords_start=places[:, 1])
    scan = formats.read(tmp_path / "a.npz", knobs={"energy": "8 keV", "angle": "0.03 mrad"})
    np.testing.assert_array_equal(scan.counts[np.arange(3)], patterns.transpose(2, 0, 1))
    np.testing.assert_allclose(scan.positions, places[:, ::-1] * 1e10)
    assert scan.geometry.beam == "photon"


def test_rows_and_columns_may_be_two_arrays_of_a_file(tmp_path) -> None:
    rng = np.random.default_rng(0)
    places = rng.random((6, 2)) * 1e-8
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = rng.integers(1, 9, (6, 8, 8)).astype("u2")
        file["y"], file["x"] = places.T
        file["short"] = np.zeros(5)
    knobs = {"energy": "80 keV", "angle": "1 mrad", "positions_unit": "m"}
    scan = formats.read(tmp_path / "a.h5", knobs={**knobs, "positions": ["y", "x"]})
    np.testing.assert_allclose(scan.positions, places * 1e10)
    text = "".join(f"{name}: {value}\n" for name, value in {**knobs, "positions": "[y, x]"}.items())
    (tmp_path / "a.h5.phaseloom.yaml").write_text(text)
    np.testing.assert_allclose(formats.read(tmp_path / "a.h5").positions, places * 1e10)
    assert "positions: [y, x]" in formats.read(tmp_path / "a.h5").metadata["setup"]
    with pytest.raises(BadInput, match="6 rows and 5 columns do not belong together"):
        formats.read(tmp_path / "a.h5", knobs={"positions": ["y", "short"]})


def test_a_grid_of_an_interrupted_array_says_how_to_read_what_there_is(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.ones((13, 8, 8), np.uint8))
    knobs = {"energy": "80 keV", "angle": "1 mrad", "step": "1 A"}
    with pytest.raises(BadInput, match=r"give grid: \[2, 5\] and selection: '0:10'"):
        formats.read(tmp_path / "a.npy", knobs={**knobs, "grid": [4, 5]})
    assert formats.read(tmp_path / "a.npy", knobs={**knobs, "grid": [2, 5], "selection": "0:10"}).grid == (
        2,
        5,
    )


TIKE = {"energy": "8 keV", "pixel": "30 nm"}


def save_tike(path: Path, *, views: bool, corner: bool = True) -> dict[str, np.ndarray]:
    """A scan as tike's tests keep theirs: a bright disk, places in pixels, two modes of half the window."""
    rng = np.random.default_rng(3)
    row, column = np.indices((16, 12)) - np.array([8, 6]).reshape(2, 1, 1)
    disk = 200.0 * (row**2 + column**2 < 9)
    patterns = rng.poisson(disk, (5, 16, 12)).astype(np.float32)
    waves = rng.normal(size=(1, 1, 2, 8, 6)) + 1j * rng.normal(size=(1, 1, 2, 8, 6))
    places = rng.uniform(2, 9, (5, 2)).astype(np.float32)
    stored = np.fft.ifftshift(patterns, axes=(-2, -1)) if corner else patterns
    lead = (None,) if views else ()
    np.savez(path, data=stored[lead], scan=places[lead], probe=waves[lead])
    return {"patterns": patterns, "places": places, "waves": waves}


@pytest.mark.parametrize("views", [True, False])
@pytest.mark.parametrize("corner", [True, False])
def test_scans_of_tike(tmp_path: Path, views: bool, corner: bool) -> None:
    known = save_tike(tmp_path / "a.npz", views=views, corner=corner)
    scan = formats.read(tmp_path / "a.npz", knobs=TIKE)
    np.testing.assert_array_equal(scan.counts[np.arange(5)], known["patterns"])
    np.testing.assert_allclose(scan.positions, known["places"] * 300.0, rtol=1e-6)
    assert scan.geometry.beam == "photon"
    assert scan.grid is None
    assert scan.probe is not None
    np.testing.assert_array_equal(scan.probe[:, 4:12, 3:9], known["waves"][0, 0])
    assert np.count_nonzero(scan.probe) == 2 * 8 * 6


def test_a_scan_of_tike_says_that_any_energy_and_pixel_serve(tmp_path: Path) -> None:
    save_tike(tmp_path / "a.npz", views=True)
    wanted = r"energy: .*which tike does not keep; any serves.*angle: .*pixel: 30 nm"
    with pytest.raises(BadInput, match=wanted):
        formats.read(tmp_path / "a.npz")


def test_other_arrays_of_the_names_of_tike_are_read_as_before(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 9, (6, 8, 8))
    np.savez(tmp_path / "a.npz", data=patterns, scan=np.arange(3), probe=np.ones(4))
    scan = formats.read(tmp_path / "a.npz", knobs={**TIKE, "step": "30 nm", "grid": [2, 3]})
    np.testing.assert_array_equal(scan.counts[np.arange(6)], patterns)
    assert (scan.geometry.beam, scan.probe) == ("electron", None)


def test_a_probe_of_tike_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    known = save_tike(tmp_path / "a.npz", views=False)
    wide = np.ones((1, 1, 1, 32, 32), np.complex64)
    np.savez(tmp_path / "b.npz", data=known["patterns"], scan=known["places"], probe=wide)
    assert formats.read(tmp_path / "b.npz", knobs=TIKE).probe is None
