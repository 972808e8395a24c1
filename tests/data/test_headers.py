"""What a file says, what a side-car says, what the user says: which wins, and what is asked for at once."""

import json
import shlex
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from phaseloom.cli import app
from phaseloom.data import formats
from phaseloom.data.formats import cxi, native, sidecar
from phaseloom.data.formats.header import Header, MissingValues
from phaseloom.data.formats.setup import build_scan
from phaseloom.data.scan import Scan4D
from phaseloom.errors import BadInput

RASTER = np.random.default_rng(0).integers(1, 9, (2, 3, 8, 8)).astype(np.uint16)
FULL = Header(
    energy=200e3,
    angle=(1e-3, 2e-3),
    step=(4.0, 3.0),
    rotation=0.5,
    metadata={"instrument": "EMPAD", "original header": "<xml>" * 20_000},
)


def scan_of(header: Header, **setup: object) -> Scan4D:
    return build_scan(Path("scan.xyz"), RASTER.copy(), setup, header=header)  # type: ignore[arg-type]


def test_a_file_that_says_everything_needs_nothing() -> None:
    scan = scan_of(FULL)
    assert scan.geometry.energy == pytest.approx(200e3)
    assert scan.geometry.angle == (1e-3, 2e-3)
    assert scan.grid == (2, 3)
    steps = np.linalg.norm(np.diff(scan.positions[[0, 1]], axis=0))
    assert steps == pytest.approx(3.0)
    assert scan.positions[1] == pytest.approx([-3 * np.sin(0.5), 3 * np.cos(0.5)])


def test_the_user_wins_over_the_file_in_every_key() -> None:
    scan = scan_of(FULL, energy=80e3, step=1.0, rotation=0.0, beam="electron")
    assert scan.geometry.energy == pytest.approx(80e3)
    assert scan.positions[-1].tolist() == [1.0, 2.0]
    assert "energy: 80 keV\n" in scan.metadata["setup"]
    assert "angle: [1 mrad, 2 mrad]  # from the file" in scan.metadata["setup"]


@pytest.mark.parametrize(
    ("header", "setup", "pixel"),
    [
        (Header(angle=1e-3), {"pixel": 0.2}, 0.2),
        (Header(distance=1e10, detector_pixel=5e5), {"pixel": 0.2}, 0.2),
        (Header(pixel=0.3), {}, 0.3),
        (Header(angle=1e-3), {"distance": 1e10, "detector_pixel": 0.0251e10 / 8 / 0.4}, 0.4),
        (Header(distance=5.0, detector_pixel=0.0251e10 / 8 / 0.4), {"distance": 1e10}, 0.4),
        (Header(pixel=0.3, distance=1e10), {}, 0.3),
    ],
)
def test_the_sampling_is_one_statement_of_the_file_or_of_the_user(
    header: Header, setup: dict, pixel: float
) -> None:
    both = Header(energy=200e3, step=1.0, **header.to_setup())
    scan = scan_of(both, **setup)
    assert scan.geometry.pixel == pytest.approx((pixel, pixel), rel=1e-3)


def test_positions_of_the_file_give_way_to_a_step_of_the_user() -> None:
    places = np.random.default_rng(0).random((6, 2))
    header = Header(energy=8e3, beam="photon", angle=1e-3, step=9.0, positions=places)
    assert scan_of(header).geometry.beam == "photon"
    np.testing.assert_array_equal(scan_of(header).positions, places)
    assert scan_of(header, step=2.0).positions[-1].tolist() == [2.0, 4.0]


def test_all_that_is_missing_is_said_at_once_with_where_it_is_found() -> None:
    with pytest.raises(MissingValues) as caught:
        build_scan(
            Path("s.mib"), RASTER.reshape(-1, 8, 8), {}, header=Header(hints={"step": "ask the stage"})
        )
    text = str(caught.value)
    assert text.startswith(
        "s.mib: does not state energy, angle, grid and step: write them in s.mib.phaseloom.yaml"
    )
    assert "s.mib.phaseloom.yaml" in text
    assert "slow times fast must be 6" in text
    assert "ask the stage" in text
    assert list(caught.value.missing) == ["energy", "angle", "grid", "step"]


@pytest.mark.parametrize(
    ("setup", "missing"),
    [
        ({"energy": 1e4}, ["angle", "step"]),
        ({"energy": 1e4, "distance": 1.0}, ["detector_pixel", "step"]),
        ({"energy": 1e4, "detector_pixel": 1.0, "step": 1.0}, ["distance"]),
        ({"pixel": 1.0, "step": 1.0}, ["energy"]),
    ],
)
def test_what_is_missing_depends_on_what_is_given(setup: dict, missing: list[str]) -> None:
    with pytest.raises(MissingValues) as caught:
        scan_of(Header(), **setup)
    assert list(caught.value.missing) == missing


def test_a_required_knob_is_listed_with_the_rest() -> None:
    np.ones(64, np.float32).tofile("s.raw")
    with pytest.raises(MissingValues) as caught:
        formats.read("s.raw", knobs={"energy": "80 keV"})
    assert list(caught.value.missing) == ["shape", "angle", "step"]


@pytest.mark.parametrize("name", ["s.npy.phaseloom.yaml", "s.phaseloom.yaml", "s.npy.yaml", "s.yaml"])
def test_side_cars_have_four_names(name: str) -> None:
    np.save("s.npy", RASTER)
    Path(name).write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    assert formats.read("s.npy").geometry.energy == pytest.approx(80e3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{energy: 80 keV, energy: 300 keV}", r"energy stands twice"),
        ("energy: 80 keV\nenergy: 300 keV\n", r"energy stands twice, in line 1 too"),
        ("[" * 3000, "lists in lists"),
        ("energy", "lines like 'energy: 80 keV'"),
    ],
)
def test_a_wrong_side_car_is_one_sentence(text: str, said: str) -> None:
    np.save("s.npy", RASTER)
    Path("s.npy.phaseloom.yaml").write_text(text)
    with pytest.raises(BadInput, match=said) as caught:
        formats.read("s.npy")
    assert "s.npy.phaseloom.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: 32", "grid: 32 must be a list, such as \\[1, 2\\]"),
        ("grid: [32, many]", "grid: .* must be a whole number"),
        ("angle: 2 rad", "angle: 2 rad per pixel of 8x8 is more than a half-space: check its unit, mrad"),
        ("angle: -1 mrad", "angle: -0.001 must be a positive number"),
        ("grid: [3, 3]", "grid: 3x3 is not the raster 2x3"),
        ("{distance: 1 A, detector_pixel: 1 m}", "detector_pixel: .* is more than a half-space"),
    ],
)
def test_a_wrong_value_of_a_side_car_names_the_side_car(text: str, said: str) -> None:
    np.save("s.npy", RASTER)
    rest = {"energy": "80 keV", "angle": "1 mrad", "step": "0.4 A"}
    left_out = "angle" if "distance" in text else text.partition(":")[0]
    lines = [text.strip("{}").replace(", d", "\nd")]
    lines += [f"{name}: {value}" for name, value in rest.items() if name != left_out]
    Path("s.npy.phaseloom.yaml").write_text("\n".join(lines))
    with pytest.raises(BadInput, match=said) as caught:
        formats.read("s.npy")
    assert str(caught.value).startswith("s.npy.phaseloom.yaml: ")
    if left_out == "angle" and "angle" in text:
        assert formats.read("s.npy", knobs={"angle": "1 mrad"}).grid == (2, 3)
        with pytest.raises(BadInput, match=r"^s\.npy: angle"):
            formats.read("s.npy", knobs={"angle": 3.0})


def test_commands_of_messages_can_be_pasted() -> None:
    Path("my data").mkdir()
    np.save("my data/s 1.npy", RASTER)
    with pytest.raises(MissingValues) as caught:
        formats.read("my data/s 1.npy")
    command = str(caught.value).partition("(phaseloom ")[2].partition(" starts it)")[0]
    words = shlex.split(command)
    assert words == ["look", "my data/s 1.npy", "--write-sidecar"]
    assert "fill in: energy" in run(*words)


def run(*words: str) -> str:
    from typer.testing import CliRunner

    done = CliRunner().invoke(app, list(words))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_look_starts_a_side_car_and_does_not_replace_it() -> None:
    np.save("s.npy", RASTER)
    assert "fill in: energy, angle, step" in run("look", "s.npy", "--write-sidecar")
    written = Path("s.npy.phaseloom.yaml").read_text()
    assert "# energy: 200 keV  # missing: the accelerating voltage" in written
    with pytest.raises(BadInput, match="exists already"):
        run("look", "s.npy", "--write-sidecar")
    filled = "".join(f"{line.lstrip('# ').split('  #')[0]}\n" for line in written.splitlines()[1:])
    Path("s.npy.phaseloom.yaml").write_text(filled)
    assert "200 keV" in run("look", "s.npy", "--write-sidecar", "--overwrite")
    again = Path("s.npy.phaseloom.yaml").read_text()
    assert "missing" not in again
    assert formats.read("s.npy").geometry.energy == pytest.approx(200e3)


def test_a_scan_of_ours_needs_no_side_car() -> None:
    np.save("s.npy", RASTER)
    Path("s.npy.phaseloom.yaml").write_text("{energy: 80 keV, angle: 1 mrad, step: 0.4 A}")
    native.write(formats.read("s.npy"), "s.h5")
    with pytest.raises(BadInput, match=r"s\.h5 is a scan of Phaseloom, .* needs no side-car"):
        run("look", "s.h5", "--write-sidecar")
    assert not Path("s.h5.phaseloom.yaml").exists()


def test_a_side_car_repeats_the_knobs_of_the_format_too() -> None:
    RASTER.tofile("s.raw")
    own = "shape: [2, 3, 8, 8], dtype: uint16"
    more = f"{{raw: {{{own}, energy: 80 keV, angle: 1 mrad, step: 0.3333333333333333 A}}}}"
    run("look", "s.raw", "--set", f"read={more}", "--write-sidecar")
    scan = formats.read("s.raw")
    assert scan.positions[1, 1] == 0.3333333333333333
    np.testing.assert_array_equal(scan.counts[np.arange(6)], RASTER.reshape(6, 8, 8))


def test_metadata_survive_in_every_file_of_ours() -> None:
    scan = scan_of(FULL)
    native.write(scan, "s.h5")
    cxi.write(scan, "s.cxi")
    for name in ("s.h5", "s.cxi"):
        assert formats.read(name).metadata == scan.metadata


def test_metadata_reach_the_result_and_its_exports(small_result) -> None:
    from dataclasses import replace

    from phaseloom import export
    from phaseloom.result import Result

    text = {"instrument": "EMPAD", "original header": "µ<xml>" * 20_000}
    result = replace(small_result, metadata=text)
    for name in ("r.h5", "r.cxi", "r.tif"):
        result.save(Path(name))
    assert Result.load("r.h5").metadata == text
    with h5py.File("r.cxi") as file:
        stored = json.loads(file["entry_1/note_1/data"][()])
    assert stored["original header"] == text["original header"]
    for path in ("r.tif", *export.stacks(result, "images")):
        with tifffile.TiffFile(path) as file:
            assert "instrument: EMPAD" in (file.imagej_metadata or {})["Info"]


@pytest.fixture
def small_result():
    from phaseloom.data.scan import Geometry
    from phaseloom.result import Result

    geometry = Geometry(wavelength=0.02, shape=(8, 8), angle=(5e-3, 5e-3), beam="electron")
    return Result(
        object=np.ones((1, 20, 20)) + 0j,
        probe=np.ones((1, 8, 8)) + 0j,
        positions=np.array([[2.0, 2.0], [6.0, 5.0]]),
        positions_start=np.zeros((2, 2)),
        pixel=geometry.pixel,
        origin=(0.0, 0.0),
        coverage=np.ones((20, 20)),
        geometry=geometry,
    )


def test_numbers_of_a_file_are_shown_in_units_that_a_person_writes() -> None:
    from phaseloom.data.formats.setup import Setup

    known = {"angle": (0.0005126947397999377, 1e-3), "step": 1.0120000000000002, "energy": 80123.456789}
    kinds = Setup.__annotations__
    text = sidecar.compose(known, frozenset(known), kinds)
    assert text.splitlines() == [
        "angle: [512.6947 µrad, 1 mrad]  # from the file",
        "step: 1.012 A  # from the file",
        "energy: 80.12346 keV  # from the file",
    ]
    own = {"energy": 80123.456789, "step": 1.0120000000000002}  # what a user wrote stays exact
    lines = sidecar.compose(own, frozenset(), kinds).splitlines()
    assert lines == ["energy: 80123.456789 eV", "step: 1.0120000000000002 A"]
