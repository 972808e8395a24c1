"""What an unknown HDF5 file hints at, and the side-car that is proposed for it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from phaseloom.cli import app
from phaseloom.data import formats
from phaseloom.data.formats.quantities.beam_hints import find_beam_hints
from phaseloom.errors import BadInput

PATTERNS = 6


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str = "own.h5", /, **members) -> h5py.File:
    """A file with patterns and more: numbers, or (number, unit)."""
    with h5py.File(name, "w") as file:
        file["run/frames"] = np.random.default_rng(0).poisson(3, (PATTERNS, 8, 8)).astype(np.uint16)
        for path, value in members.items():
            number, unit = value if isinstance(value, tuple) else (value, None)
            file[path] = number
            if unit:
                file[path].attrs["units"] = unit
    return h5py.File(name)


def propose(**members) -> str:
    """The side-car that `look` starts for such a file."""
    write(**members).close()
    done = CliRunner().invoke(app, ["look", "own.h5", "--write-sidecar"])
    assert done.exit_code == 0, done.exception
    return Path("own.h5.phaseloom.yaml").read_text()


BEAMLINE = {
    "run/eiger/distance_mm": 3200.0,
    "run/mono/energy": (9.1, "keV"),
    "run/motors/samx": (0.3 * np.arange(6.0), "um"),
    "run/motors/samy": (0.1 * np.arange(6.0) ** 2, "um"),
}


def test_a_file_of_a_beamline_is_asked_for_as_one_and_its_side_car_reads_it():
    text = propose(**BEAMLINE)
    assert text.splitlines()[1].startswith("beam: photon")
    assert "# energy: 9.1 keV  # missing: run/mono/energy of the file" in text
    for absent in ("200 keV", "angle", "grid", "step"):
        assert absent not in text
    filled = [line.removeprefix("# ") for line in text.splitlines()[1:]]
    Path("own.h5.phaseloom.yaml").write_text("\n".join(filled))
    scan = formats.read("own.h5")
    assert scan.geometry.beam == "photon"
    assert scan.geometry.energy == pytest.approx(9100)
    assert scan.geometry.angle[0] == pytest.approx(75e-6 / 3.2)
    np.testing.assert_allclose(scan.positions[2], [4e3, 6e3])


@pytest.mark.parametrize(
    ("scale", "unit"), [(4e-3, "mm"), (4.0, "um"), (4e-6, "m"), (4e3, "nm")], ids=["mm", "um", "m", "nm"]
)
def test_an_upright_stage_and_numbers_without_a_unit_are_proposed_and_named_a_guess(scale, unit):
    places = scale * np.linspace(0, 1, PATTERNS)
    members = {"motors/samx": places, "motors/samz": 0.7 * places, "info/det_dist": 3.0}
    text = propose(**members, **{"info/mono_energy": 8.0})
    assert "# distance: 3 m  # missing: info/det_dist of the file, which states no unit: a guess" in text
    assert "# positions: [motors/samz, motors/samx]" in text
    assert f"# positions_unit: {unit}  # missing: the file states none: a guess by numbers that span" in text
    assert "grid" not in text
    assert "step" not in text
    filled = [line.removeprefix("# ") for line in text.splitlines()[1:]]
    Path("own.h5.phaseloom.yaml").write_text("\n".join(filled))
    np.testing.assert_allclose(np.ptp(formats.read("own.h5").positions[:, 1]), 4e4, rtol=1e-6)


def test_a_height_beside_two_motors_of_the_plane_is_no_row():
    text = propose(**BEAMLINE, **{"run/motors/samz": np.zeros(6)})
    assert "[run/motors/samy, run/motors/samx]" in text
    assert "positions_unit" not in text


def test_what_cannot_be_told_is_proposed_both_ways_and_all_of_it_is_a_comment():
    text = propose(**{"run/beam_energy": (12.0, "keV")})
    assert all(line.startswith("#") for line in text.splitlines())
    assert "# energy: 200 keV" in text
    assert "# beam: photon" in text
    assert "# energy: 12 keV" in text
    assert "# detector_pixel: 75 um" in text


@pytest.mark.parametrize(
    "members", [{}, {"run/stem/voltage": (200.0, "kV")}, {"run/energy": (200.0, "keV")}], ids=str
)
def test_files_without_a_hint_at_x_rays_are_asked_for_as_before(members):
    text = propose(**members)
    assert "# energy: 200 keV  # missing: the accelerating voltage" in text
    assert "# angle: 0.5 mrad" in text
    assert "# beam: photon" not in text


def test_the_message_asks_for_the_beam_too():
    write(**BEAMLINE).close()
    with pytest.raises(BadInput, match=r"does not state beam, energy, distance, .* beam: photon"):
        formats.read("own.h5")
    with pytest.raises(BadInput, match="does not state energy, angle"):
        formats.read("own.h5", knobs={"beam": "electron"})


@pytest.mark.parametrize(
    ("members", "beam"),
    [
        ({"pilatus/energy_eV": 8000.0}, "photon"),
        ({"mono/wavelength": (1.0, "angstrom")}, "photon"),
        ({"undulator/gap": 7.0, "zone_plate/x": 1.0}, "photon"),
        ({"eiger/gain": 7.0}, None),
        ({"eiger/energy": (300.0, "keV")}, None),
        ({"eiger/mono": 1.0, "run/haadf": 1.0}, None),
        ({"run/energy": (30.0, "keV")}, None),
        ({"run/energy": (80.0, "keV")}, "electron"),
        ({"run/stem/dwell": 1.0}, "electron"),
        ({"run/system/hotel": 1.0}, None),
    ],
    ids=str,
)
def test_the_beam_that_is_told(members, beam):
    with write(**members) as file:
        assert find_beam_hints(file, PATTERNS).beam == beam


@pytest.mark.parametrize(
    ("members", "key", "value"),
    [
        ({"mono/wavelength": (1.0, "angstrom")}, "energy", "12.39842 keV"),
        ({"photon_energy": 9100.0}, "energy", "9.1 keV"),
        ({"energy": np.full(6, 9.1)}, "energy", "9.1 keV"),
        ({"energy": np.linspace(9, 10, 6)}, "energy", None),
        ({"x_pixel_size": (75e-6, "m")}, "detector_pixel", "7.5e-05 m"),
        ({"pilatus/gain": 1.0}, "detector_pixel", "172 um"),
        ({"distance": 3200.0}, "distance", "3200 mm"),
        ({"detector_distance": (2.0, "m")}, "distance", "2 m"),
        ({"a/pos_y": np.arange(6.0), "a/pos_x": np.arange(6.0)}, "positions", "[a/pos_y, a/pos_x]"),
        ({"a/pos_y": np.arange(5.0), "a/pos_x": np.arange(5.0)}, "positions", None),
    ],
    ids=str,
)
def test_values_with_a_unit_are_proposed(members, key, value):
    with write(**members) as file:
        assert find_beam_hints(file, PATTERNS).values.get(key) == value
