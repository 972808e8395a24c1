"""Specimens: atoms counted once, distances that matter allows, materials kept apart."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from phaseloom.errors import BadInput, MissingExtra
from phaseloom.simulation.crystals import Material, build_crystal
from phaseloom.simulation.elements import load_ase_data
from phaseloom.simulation.materials import draw_material, select_materials
from phaseloom.simulation.specimen_box import find_close_pairs
from phaseloom.simulation.specimens import (
    FAMILIES,
    Specimen,
    cif,
    cut_box,
    is_held_out,
    materials,
    prototypes,
    remove_close_atoms,
)
from phaseloom.spec import call, names

pytest.importorskip("ase")

ROOM = "phaseloom.simulation.specimens"
SALT = 3.905
PEROVSKITE = np.array([38, 22, 8, 8, 8])
SITES = SALT * np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])

CIF = """data_NaCl
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""
SODIUM, CHLORINE = "Na1 Na 0 0 0 1\n", "Cl1 Cl 0.5 0.5 0.5 1\n"


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plain(size: tuple[float, float], seed: int, **knobs) -> Specimen:
    """Nothing missing, one grain."""
    return prototypes(size, rng(seed), vacancies=0, edges=0, grains=0, **knobs)


def shares(specimen: Specimen) -> np.ndarray:
    """Distances in shares of the sum of covalent radii, images included."""
    _, distance, bond = find_close_pairs(specimen, 1.0)
    return distance / bond


def inside(specimen: Specimen) -> bool:
    return bool(((specimen.places >= 0) & (specimen.places < specimen.size)).all())


@pytest.mark.parametrize("offset", [0.0, 1e-9, -1e-9, 0.3])
def test_whole_cells_keep_exactly_their_atoms(offset):
    size = (13 * SALT, 13 * SALT)
    shift = (offset, offset, offset)
    found = cut_box(PEROVSKITE, SITES, SALT * np.eye(3), size, thickness=4 * SALT, shift=shift)
    assert len(found.numbers) == 5 * 13 * 13 * 4
    assert inside(found)
    assert len(remove_close_atoms(found).numbers) == len(found.numbers)
    assert np.bincount(found.numbers)[[8, 22, 38]].tolist() == [2028, 676, 676]


def test_a_crystal_turned_by_a_right_angle_or_named_by_another_cell_is_the_same():
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    skewed = SALT * np.array([[1, 0, 0], [3, 1, 0], [0, -2, 1]])
    size = (3 * SALT, 2 * SALT)
    knobs = {"thickness": 2 * SALT, "shift": (0.5, 0.7, 0.9)}

    def order(specimen):
        return sorted(zip(specimen.numbers.tolist(), map(tuple, specimen.places.round(6)), strict=True))

    straight = cut_box(PEROVSKITE, SITES, SALT * np.eye(3), size, **knobs)
    assert order(cut_box(PEROVSKITE, SITES, skewed, size, **knobs)) == order(straight)
    turned = cut_box(PEROVSKITE, SITES, SALT * np.eye(3), size, rotation=turn, **knobs)
    assert order(turned) == order(straight)


def test_axes_of_files_become_z_y_x():
    lattice = np.diag([3.0, 4.0, 5.0])
    found = cut_box(np.array([6]), np.array([[1.0, 2.0, 3.0]]), lattice, (4, 3), thickness=5)
    assert found.places.tolist() == [[3, 2, 1]]


def test_what_does_not_repeat_is_there_once():
    found = cut_box(
        np.array([6]), np.zeros((1, 3)), 3 * np.eye(3), (9, 9), thickness=9, periodic=(True, False, True)
    )
    assert len(found.numbers) == 9
    assert not found.places[:, 1].any()


def test_a_turned_crystal_fills_the_box_at_its_density():
    turn = np.linalg.qr(rng(1).normal(size=(3, 3)))[0]
    found = cut_box(PEROVSKITE, SITES, SALT * np.eye(3), (41.3, 37.7), thickness=20.1, rotation=turn)
    assert len(found.numbers) / np.prod(found.size) == pytest.approx(5 / SALT**3, rel=0.01)


def test_settled_looks_across_the_sides_but_not_along_the_beam():
    places = np.array([[0, 1, 5], [0, 9.5, 5], [1.9, 5, 5], [0.1, 5, 5], [1, 3, 0.2], [1, 3, 9.9]])
    carbon = Specimen(np.full(6, 6), places, (2.0, 10.0, 10.0))
    assert len(remove_close_atoms(carbon).numbers) == 5
    assert len(remove_close_atoms(carbon, least=1.0).numbers) == 4
    assert shares(remove_close_atoms(carbon)).min() >= 0.6


def test_a_box_without_room_for_its_atoms_is_refused():
    cesium = Specimen(np.array([55, 55]), np.zeros((2, 3)), (4.0, 5.0, 9.0))
    with pytest.raises(BadInput, match="too small a box"):
        remove_close_atoms(cesium)


def test_the_same_seed_gives_the_same_specimen():
    for seed in range(6):
        one, two = (prototypes((30.0, 40.0), rng(seed)) for _ in range(2))
        assert one.name == two.name
        assert np.array_equal(one.places, two.places)
        assert np.array_equal(one.numbers, two.numbers)
    other = prototypes((30.0, 40.0), rng(7))
    assert one.places.shape != other.places.shape or not np.array_equal(one.places, other.places)


def test_no_two_atoms_of_60_draws_are_too_close_and_all_are_in_their_box():
    for seed in range(60):
        found = prototypes((50.0, 40.0), rng(seed))
        assert inside(found), seed
        assert len(found.numbers) > 3, seed
        assert shares(found).min(initial=9.0) >= 0.7 - 1e-9, (seed, found.name)
        assert find_close_pairs(found, 1.0)[1].min(initial=9.0) > 0.7 * 1.4, (seed, found.name)
        assert 4 <= found.thickness <= 16
        assert found.size[1:] == (50.0, 40.0)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "amorphous"])
def test_every_family_has_the_density_and_the_bonds_of_its_cell(family):
    for seed in range(3):
        material = draw_material(select_materials((family,), None, ()), rng(seed))
        cell = build_crystal(material)
        expected = len(cell.kinds) / abs(np.linalg.det(cell.lattice))
        size = (60.0, 60.0)
        found = plain(size, seed, families=[family], axes="random", thickness=(30.0, 30.0))
        assert found.family == family
        assert found.name == cell.name
        assert len(found.numbers) / np.prod(found.size) == pytest.approx(expected, rel=0.06)
        _, distance, _ = find_close_pairs(found, 1.4)
        assert 1.2 < np.median(np.sort(distance)[: len(found.numbers) // 4]) < 3.6


@pytest.mark.parametrize(
    ("family", "elements", "constant"),
    [
        ("perovskite", ("Sr", "Ti", "O"), 3.905),
        ("spinel", ("Mg", "Al", "O"), 8.083),
        ("rutile", ("Ti", "O"), 4.594),
        ("zincblende", ("Ga", "As"), 5.653),
        ("wurtzite", ("Ga", "N"), 3.189),
        ("fluorite", ("Ce", "O"), 5.411),
        ("rocksalt", ("Na", "Cl"), 5.640),
        ("cesiumchloride", ("Cs", "Cl"), 4.123),
        ("mx2", ("Mo", "S"), 3.160),
        ("honeycomb", ("C",), 2.461),
        ("l12", ("Au", "Cu"), 3.750),
        ("heusler", ("Co", "Mn", "Si"), 5.654),
        ("fcc", ("Au",), 4.08),
    ],
)
def test_lattice_constants_of_well_known_materials_are_right_to_two_percent(family, elements, constant):
    cell = build_crystal(Material(family, elements))
    assert np.linalg.norm(cell.lattice[0]) == pytest.approx(constant, rel=0.02)


@pytest.mark.parametrize(
    ("family", "elements", "group", "basis"),
    [
        ("spinel", ("Mg", "Al", "O"), 227, [(1 / 8,) * 3, (1 / 2,) * 3, None]),
        ("rutile", ("Ti", "O"), 136, [(0, 0, 0), (0.305, 0.305, 0)]),
        ("fluorite", ("Ce", "O"), 225, [(0, 0, 0), (1 / 4,) * 3]),
        ("heusler", ("Co", "Mn", "Si"), 225, [(1 / 4,) * 3, (0, 0, 0), (1 / 2,) * 3]),
        ("wurtzite", ("Ga", "N"), 186, [(1 / 3, 2 / 3, 0), (1 / 3, 2 / 3, 3 / 8)]),
        ("hcp", ("Mg",), 194, [(1 / 3, 2 / 3, 1 / 4)]),
        ("diamond", ("Si",), 227, [(0, 0, 0)]),
    ],
)
def test_prototypes_have_the_symmetry_of_their_space_group(family, elements, group, basis):
    from ase.spacegroup import Spacegroup

    cell = build_crystal(Material(family, elements))
    at = (cell.positions @ np.linalg.inv(cell.lattice)) % 1
    setting = 2 if family == "spinel" else 1
    start = [at[cell.kinds == kind][0] if place is None else place for kind, place in enumerate(basis)]
    expected, kinds = Spacegroup(group, setting=setting).equivalent_sites(start, symprec=1e-4)

    def order(places, labels):
        rows = np.round(places % 1, 4) % 1
        return sorted(zip(labels, map(tuple, rows.tolist()), strict=True))

    assert order(at, cell.kinds.tolist()) == order(expected, kinds)


def test_glasses_have_their_density_no_order_and_no_atom_inside_another():
    for elements, density in ((("Si", "O"), 0.0662), (("C",), 0.1003), (("Si",), 0.0489)):
        knobs = {"families": ["amorphous"], "only": list(elements), "thickness": (12.0, 12.0)}
        found = next(
            s
            for s in (plain((40.0, 40.0), n, **knobs) for n in range(40))
            if len(s.elements) == len(elements)
        )
        assert len(found.numbers) / np.prod(found.size) == pytest.approx(density, rel=0.06)
        assert shares(found).min() > 0.7
    waves = np.exp(2j * np.pi * found.places[:, 1:] @ (np.indices((30, 30)).reshape(2, -1) / 40))
    strength = abs(waves.sum(0)) ** 2 / len(found.numbers)
    assert strength[1:].max() < 15


def test_vacuum_and_vacancies_come_as_often_as_asked():
    knobs = {"families": ["fcc"], "axes": "low index", "grains": 0.0}
    full = [prototypes((40.0, 40.0), rng(n), edges=0, vacancies=0, **knobs) for n in range(10)]
    edged = [prototypes((40.0, 40.0), rng(n), edges=1, vacancies=0, **knobs) for n in range(10)]
    holed = [prototypes((40.0, 40.0), rng(n), edges=0, vacancies=0.3, **knobs) for n in range(10)]
    ratios = np.array([[len(e.numbers), len(h.numbers)] for e, h in zip(edged, holed, strict=True)], float)
    ratios /= np.array([len(f.numbers) for f in full])[:, None]
    assert (ratios[:, 0] < 0.95).all()
    assert (ratios[:, 1] > 0.65).all()
    assert 0.75 < ratios[:, 1].mean() < 0.95


def test_grains_leave_no_gap_larger_than_a_bond_or_two():
    from scipy.spatial import KDTree

    for seed in range(5):
        found = prototypes((40.0, 40.0), rng(seed), families=["fcc"], grains=1.0, edges=0, vacancies=0)
        tree = KDTree(found.places, boxsize=[100, 40, 40])
        places = rng(seed).uniform(0, 1, (2000, 3)) * found.size
        assert tree.query(places)[0].max() < 4.5


def test_layers_from_above_are_whole():
    for seed in range(12):
        found = plain((30.0, 30.0), seed, families=["mx2"], axes="low index", thickness=(7.0, 14.0))
        heights = np.unique(found.places[:, 0].round(3))
        if len(heights) <= 6:
            assert len(heights) % 3 == 0
            metal = np.isin(found.numbers, [41, 42, 73, 74]).sum()
            assert metal / len(found.numbers) == pytest.approx(1 / 3, abs=0.03)


def test_low_index_axes_show_columns_and_any_axes_do_not():
    from scipy.spatial import KDTree

    def apart(specimen):
        """Median distance between an atom and the next one in projection."""
        return np.median(KDTree(specimen.places[:, 1:]).query(specimen.places[:, 1:], 2)[0][:, 1])

    knobs = {"families": ["fcc"], "tilt": 0.0, "thickness": (16.0, 16.0)}
    for seed in range(8):
        assert apart(plain((30.0, 30.0), seed, axes="low index", **knobs)) < 1e-6
        assert apart(plain((30.0, 30.0), seed, axes="random", **knobs)) > 0.02
    tilted = knobs | {"tilt": 0.05}
    assert 0 < apart(plain((30.0, 30.0), 0, axes="low index", **tilted)) < 0.6


def test_every_family_is_reached_and_there_are_thousands_of_groups():
    choice = select_materials(None, None, ())
    assert set(choice) == set(FAMILIES)
    assert len(FAMILIES) >= 12
    generator = rng()
    drawn = [draw_material(choice, generator) for _ in range(4000)]
    assert {material.family for material in drawn} == set(FAMILIES)
    assert len({material.groups[0] for material in drawn}) > 1500


def test_training_and_held_out_groups_are_disjoint():
    sides = {
        part: [prototypes((12.0, 12.0), rng(n), part=part, grains=0.5) for n in range(60)]
        for part in ("train", "held out")
    }
    groups = {part: {specimen.group for specimen in found} for part, found in sides.items()}
    assert not groups["train"] & groups["held out"]
    assert all(is_held_out(group, 0.15) for group in groups["held out"])
    assert not any(is_held_out(group, 0.15) for group in groups["train"])
    assert len({specimen.family.split("+")[0] for specimen in sides["held out"]}) > 8


def test_a_mixture_is_held_out_only_with_both_of_its_ends():
    mixture = Material("perovskite", ("Sr", "Ti", "O"), ("Ba", "Ti", "O"), 0.3)
    names = ("perovskite:Ba-O-Sr-Ti", "perovskite:O-Sr-Ti", "perovskite:Ba-O-Ti")
    assert mixture.groups == names
    assert build_crystal(mixture).name == "(Sr0.70Ba0.30)TiO3"


def test_the_split_is_the_same_in_another_process():
    code = f"from {ROOM} import is_held_out; print([is_held_out(f'fcc:{{n}}', 0.3, 4) for n in range(40)])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str([is_held_out(f"fcc:{n}", 0.3, 4) for n in range(40)])


def test_elements_can_be_asked_for_and_left_out():
    for seed in range(8):
        assert set(plain((20.0, 20.0), seed, only=["Si", "Ge", "C"]).elements) <= {"Si", "Ge", "C"}
        assert "O" not in plain((20.0, 20.0), seed, without=["O"]).elements


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"families": ["perovskit"]}, "did you mean 'perovskite'"),
        ({"only": ["Xx"]}, "prototypes.only: Xx is not an element"),
        ({"families": ["perovskite"], "only": ["Sr"]}, "no material"),
        ({"families": ["fcc"], "only": ["Au"], "part": "held out", "share": 1e-9}, "prototypes.part"),
        ({"thickness": (9.0, 4.0)}, "prototypes.thickness"),
        ({"vacancies": 0.9}, "prototypes.vacancies: 0.9 must lie between"),
        ({"edges": float("nan")}, "prototypes.edges"),
        ({"share": 2.0}, "prototypes.share"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_in_a_sentence(knobs, sentence):
    with pytest.raises(BadInput, match=sentence):
        prototypes((30.0, 30.0), rng(), **knobs)


def test_a_box_too_small_is_refused():
    with pytest.raises(BadInput, match=r"prototypes.size: \(5.0, 30.0\) must be at least 8 angstrom"):
        prototypes((5.0, 30.0), rng())


def test_a_parameter_file_can_ask_for_specimens():
    assert names(ROOM) == ["cif", "materials", "prototypes"]
    node = {"prototypes": {"families": ["fcc"], "thickness": ["5 A", "0.6 nm"], "tilt": "20 mrad"}}
    found = call(ROOM, node, "specimen")((20.0, 20.0), rng())
    assert found.family.startswith("fcc")
    assert 5 <= found.thickness <= 6


def test_a_cif_is_cut_as_it_is_given(tmp_path: Path):
    (tmp_path / "salt.cif").write_text(CIF + SODIUM + CHLORINE)
    found = cif((3 * 5.64, 2 * 5.64), rng(), folder=tmp_path, axes="as given", thickness=(5.64, 5.64))
    assert (found.family, found.name, found.elements) == ("salt", "NaCl", ("Cl", "Na"))
    assert len(found.numbers) == 8 * 6
    assert found.group == "salt:Cl-Na"


def test_each_cif_of_a_folder_comes_up(tmp_path: Path):
    for name in ("one", "two", "three"):
        (tmp_path / f"{name}.cif").write_text(CIF + SODIUM + CHLORINE)
    (tmp_path / "notes.txt").write_text("no crystal")
    found = [cif((20.0, 20.0), rng(n), folder=tmp_path, axes="random") for n in range(20)]
    assert {specimen.family for specimen in found} == {"one", "two", "three"}
    assert all(inside(specimen) and shares(specimen).min() >= 0.6 for specimen in found)


def test_partial_occupancy_is_drawn_atom_by_atom(tmp_path: Path):
    mixed = "Na1 Na 0 0 0 0.5\nK1 K 0 0 0 0.3\nCl1 Cl 0.5 0.5 0.5 1\n"
    (tmp_path / "mixed.cif").write_text(CIF + mixed)
    size, depth = (8 * 5.64, 8 * 5.64), 2 * 5.64
    found = cif(size, rng(), folder=tmp_path, axes="as given", thickness=(depth, depth))
    counts = np.bincount(found.numbers, minlength=20)
    assert counts[17] == 512
    assert counts[11] / 512 == pytest.approx(0.5, abs=0.07)
    assert counts[19] / 512 == pytest.approx(0.3, abs=0.07)


def test_folders_and_files_that_cannot_be_used_are_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"holds no \.cif file"):
        cif((20.0, 20.0), rng(), folder=tmp_path)
    with pytest.raises(BadInput, match="is not a folder"):
        cif((20.0, 20.0), rng(), folder=tmp_path / "nowhere")
    (tmp_path / "broken.cif").write_text("data_x\nloop_\n_atom_site_label\n")
    with pytest.raises(BadInput, match=r"cif.folder: broken.cif: .*mend it"):
        cif((20.0, 20.0), rng(), folder=tmp_path)


def write(path: Path, **changed) -> Path:
    node = {
        "material_id": "mp-5229",
        "cart_coords": SITES,
        "lattice_matrix": SALT * np.eye(3),
        "pbc": [True] * 3,
        "atomic_numbers": PEROVSKITE,
    }
    with h5py.File(path, "w") as file:
        for key in ("0", "1", "2"):
            for name, value in (node | changed).items():
                if value is not None:
                    file[f"cubic/materials/{key}/{name}"] = value
        file["hexagonal/materials/7/material_id"] = "mp-1"
    return path


def test_materials_of_a_file_are_laid_as_they_are_given(tmp_path: Path):
    path = write(tmp_path / "materials.h5")
    depth = 3 * SALT
    found = materials((3 * SALT, 4 * SALT), rng(), path=path, crystal_type="cubic", thickness=(depth, depth))
    assert (found.family, found.name, len(found.numbers)) == ("cubic", "mp-5229", 5 * 36)
    strontium = found.places[found.numbers == 38]
    assert strontium[0] == pytest.approx(0)
    turned = materials(
        (30.0, 30.0), rng(2), path=path, crystal_type="cubic", start=1, stop=2, axes="random", tilt=0.1
    )
    assert inside(turned)
    assert shares(turned).min() >= 0.6


def test_files_of_materials_that_cannot_be_used_are_told(tmp_path: Path):
    path, size = write(tmp_path / "materials.h5"), (20.0, 20.0)
    with pytest.raises(BadInput, match="hexagonal/materials/7: has no cart_coords"):
        materials(size, rng(), path=path, crystal_type="hexagonal")
    with pytest.raises(BadInput, match="did you mean 'cubic'"):
        materials(size, rng(), path=path, crystal_type="cubik")
    with pytest.raises(BadInput, match="is not a range of up to 3 materials"):
        materials(size, rng(), path=path, crystal_type="cubic", start=5)
    with pytest.raises(BadInput, match="is not a file"):
        materials(size, rng(), path=tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        materials(size, rng(), path=tmp_path / "text.h5")
    flat = write(tmp_path / "flat.h5", lattice_matrix=np.zeros((3, 3)))
    with pytest.raises(BadInput, match="cell without volume"):
        materials(size, rng(), path=flat, crystal_type="cubic")
    odd = write(tmp_path / "odd.h5", atomic_numbers=PEROVSKITE[:3])
    with pytest.raises(BadInput, match="mend it"):
        materials(size, rng(), path=odd, crystal_type="cubic")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ase.data", None)
    with pytest.raises(MissingExtra, match=r"needs ase: pip install 'phaseloom\[simulate\]'"):
        load_ase_data()


def test_arrays_that_do_not_go_together_are_refused():
    with pytest.raises(BadInput, match=r"cut_box\.positions"):
        cut_box(PEROVSKITE, SITES[:2], SALT * np.eye(3), (9, 9), thickness=9)
    with pytest.raises(BadInput, match=r"cut_box\.lattice"):
        cut_box(PEROVSKITE, SITES, np.ones((3, 3)), (9, 9), thickness=9)
    with pytest.raises(BadInput, match=r"cut_box\.size"):
        cut_box(PEROVSKITE, SITES, SALT * np.eye(3), (9, 0), thickness=9)


def test_a_file_that_changed_is_read_again(tmp_path: Path):
    path = tmp_path / "salt.cif"
    path.write_text(CIF + SODIUM + CHLORINE)
    assert cif((20.0, 20.0), rng(), folder=tmp_path).name == "NaCl"
    path.write_text(CIF.replace("NaCl", "KCl") + "K1 K 0 0 0 1\n" + CHLORINE)
    assert cif((20.0, 20.0), rng(), folder=tmp_path).name == "KCl"
