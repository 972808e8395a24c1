"""`phaseloom cite` names what a run used, and no reference stands where it can drift."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import phaseloom as pl
from phaseloom.citations import ARGUMENTS, IDENTIFIER, cite, find_dois, list_features, load_references
from phaseloom.cli import app
from phaseloom.cli.describe import RECIPE_HOMES, recipe_of
from phaseloom.direct.recipe import Direct
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.spec import Recipe, function_of, names

ROOT = Path(__file__).parents[2]
OLD_RESULT = ROOT / "tests" / "data" / "before_move" / "result.h5"
RECIPES: list[Recipe] = [
    Reconstruct.of({"file": "scan.cxi"}),
    *(Direct.of({"file": "scan.h5", "method": name}) for name in ("wiener", "parallax", "wdd", "dpc")),
]
FEATURES = {(what, place) for recipe in RECIPES for what, place, _ in list_features(recipe)}


def list_choices() -> list[tuple[str, str]]:
    """Rooms with their choices, of every kind of parameter file."""
    rooms = set[str]()
    for kind in RECIPE_HOMES:
        try:
            fields = recipe_of(kind).model_fields
        except ImportError:
            continue
        extras: list[Any] = [info.json_schema_extra or {} for info in fields.values()]
        rooms |= {extra["room"] for extra in extras if "room" in extra}
    return sorted((room, name) for room in rooms for name in names(room))


def whats(run: Path, doi: str) -> tuple[str, ...]:
    """For what a DOI is cited."""
    return next((one.what for one in cite(run) if one.entry.get("doi") == doi), ())


@pytest.fixture
def parameters(tmp_path: Path) -> Any:
    def write(**tree: Any) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(Reconstruct.of({"file": "scan.cxi", **tree}).to_text())
        return path

    return write


@pytest.mark.parametrize(("what", "place"), sorted(FEATURES))
def test_what_implements_a_method_has_its_reference(what, place):
    dois = find_dois(place)
    assert dois, f"{what}: {place} names no source"
    assert set(dois) <= set(load_references()), what


@pytest.mark.parametrize(("room", "name"), list_choices())
def test_references_of_choices_are_in_the_citation_file(room, name):
    assert set(find_dois(function_of(room, name))) <= set(load_references())


def test_every_reference_is_in_a_docstring_that_can_be_reached():
    reached = {doi for _, place in FEATURES for doi in find_dois(place)}
    for room, name in list_choices():
        reached |= {*find_dois(function_of(room, name)), *find_dois(room)}
    assert set(load_references()) - reached == set()


def test_years_and_names_are_those_of_the_docstrings():
    """A docstring that gives a name and a year before a DOI agrees with the citation file."""
    checked = 0
    for path in (ROOT / "src" / "phaseloom").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = [tree, *ast.walk(tree)]
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        for text in {ast.get_docstring(one) or "" for one in nodes if isinstance(one, kinds)}:
            for match in re.finditer(r"([A-Z][^\W\d]+)[^;()]{0,60}? ((?:19|20)\d\d),\s+(?:doi|arXiv)", text):
                found = IDENTIFIER.search(text, match.end() - 5)
                doi = (found[1] or f"10.48550/arXiv.{found[2]}").rstrip(".") if found else ""
                if (entry := load_references().get(doi)) is None:
                    continue
                checked += 1
                family = entry["authors"][0]["family-names"].split()[-1]
                assert plain(family) in plain(match[0]), (path.name, match[0])
                assert abs(int(match[2]) - entry["year"]) <= 1, (path.name, match[0])
    assert checked > 20


def plain(text: str) -> str:
    for accented, letter in ("ćc", "üu", "čc", "éé"):
        text = text.replace(accented, letter)
    return text.lower()


def test_sources_of_options_are_left_out():
    text = "A step.\n\nArgs:\n    a: see arXiv 1904.09237.\n\n        More.\n\nSource:\n    doi 10.1/x.\n"
    assert "1904" not in ARGUMENTS.sub("", text)
    assert "Source" in ARGUMENTS.sub("", text)
    assert find_dois(pl.fitting.optimizers.adam) == ["10.48550/arXiv.1412.6980"]


def test_dois_with_brackets_are_taken_whole():
    function = type("A", (), {"__doc__": "As in (Rudin 1992, doi 10.1016/0167-2789(92)90242-F). More."})
    assert find_dois(function) == ["10.1016/0167-2789(92)90242-F"]


def test_a_recipe_that_freezes_and_has_one_of_each_cites_little(parameters):
    frozen = {"positions": 0, "affine": 0, "lines": 0}
    path = parameters(noise="amplitude", rates=frozen)
    assert [one.what[0] for one in cite(path)] == [
        "Phaseloom",
        "ptychography",
        "ptychography",
        "noise: amplitude",
    ]


@pytest.mark.parametrize(
    ("tree", "doi"),
    [
        ({"probe": {"focused": {"semiangle": "20 mrad", "modes": 3}}}, "10.1038/nature11806"),
        ({"object": {"pixels": {"slices": 3, "thickness": "20 A"}}}, "10.1364/JOSAA.29.001606"),
        ({"noise": "poisson"}, "10.1088/1367-2630/14/6/063004"),
        ({"optimizer": "lbfgs", "shape": "constant"}, "10.1007/BF01589116"),
        ({"optimizer": "adam"}, "10.48550/arXiv.1412.6980"),
        ({"penalties": [{"tv": {"weight": 0.1}}]}, "10.1016/0167-2789(92)90242-F"),
        ({"rates": {"tilts": 0.1}}, "10.1126/sciadv.abn2275"),
        ({"found": {"calibrate": {"rotation": "3"}}}, "10.1137/0710036"),
    ],
)
def test_a_method_is_cited_where_it_is_used_and_not_elsewhere(parameters, tree, doi):
    assert whats(parameters(**tree), doi)
    rates = {"positions": 0, "affine": 0, "lines": 0}
    assert not whats(parameters(noise="amplitude", rates=rates), doi)


@pytest.mark.medium
def test_of_a_run_what_it_has_found_is_cited(tmp_path):
    rng = pl.simulate.raster((4, 4), 0.7) + 8.0
    truth = pl.simulate.atoms((60, 60), 0.3)
    scan, _ = pl.simulate.electron_scan(truth, 0.3, rng, energy=80e3, semiangle=0.025, window=24)
    recipe = Reconstruct.of({"file": "in memory", "start": "none", "preset": "none", "epochs": 1})
    job = pl.Job.begin(recipe, tmp_path / "run", scan=scan)
    for _ in job:
        pass
    job.save(job.result())
    found = cite(tmp_path / "run")
    assert [one.what for one in found] == [one.what for one in cite(tmp_path / "run" / "result.h5")]
    assert ("error bar",) in [one.what for one in found]
    assert "noise: poisson" in [one.what[0] for one in found]


def test_an_older_result_can_be_cited():
    assert whats(OLD_RESULT, "10.1063/1.1823034") == ("ptychography",)


@pytest.mark.parametrize("method", ["parallax", "wdd", "dpc", "wiener"])
def test_files_of_direct_images_are_known(tmp_path, method):
    path = tmp_path / "direct.yaml"
    path.write_text(f"file: scan.h5\nmethod: {method}\n")
    dois = [one.entry.get("doi") for one in cite(path)]
    assert ("10.1098/rsta.1992.0050" in dois) == (method == "wdd")
    assert ("10.48550/arXiv.2309.05250" in dois) == (method == "parallax")
    assert ("10.1016/0304-3991(93)90105-7" in dois) == (method != "dpc")


def test_bibtex_can_be_taken_apart(parameters):
    path = parameters(noise="poisson", penalties=[{"tv": {}}], optimizer="adam")
    done = CliRunner().invoke(app, ["cite", str(path)])
    assert done.exit_code == 0
    entries = re.findall(r"^@(\w+)\{([\w.-]+),\n((?:  \w+ = \{.*\},\n)+)\}", done.stdout, re.MULTILINE)
    assert len(entries) == len(cite(path)) == done.stdout.count("@")
    assert len({key for _, key, _ in entries}) == len(entries)
    assert entries[0][:2] == ("software", "phaseloom")
    assert all("author = {" in body and "title = {{" in body for _, _, body in entries)
    assert "author = {Thibault, P. and Guizar-Sicairos, M.}" in done.stdout


def test_the_list_has_a_line_for_each(parameters):
    path = parameters(noise="poisson")
    done = CliRunner().invoke(app, ["cite", "--text", str(path)])
    assert len(done.stdout.splitlines()) == len(cite(path))
    assert (
        "P. Thibault, M. Guizar-Sicairos, Maximum-likelihood refinement for coherent diffractive imaging, "
        "New Journal of Physics 14, 063004 (2012), doi 10.1088/1367-2630/14/6/063004 [noise: poisson]"
    ) in done.stdout


@pytest.mark.parametrize("name", ["autoencode", "reconstruct", "restore", "simulate", "train", "tune"])
def test_parameter_files_of_other_verbs_can_be_cited(name):
    found = cite(OLD_RESULT.with_name(f"{name}.yaml"))
    expected = {"tune": "sampler: tpe", "restore": "model: recommended", "reconstruct": "ptychography"}
    assert found[0].what == ("Phaseloom",)
    if name in expected:
        assert expected[name] in [what for one in found for what in one.what]


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for path, said in (
        (tmp_path, "no result.h5"),
        (tmp_path / "no", "not there"),
        (tmp_path / "notes.txt", "not a result"),
    ):
        with pytest.raises(pl.BadInput, match=said):
            cite(path)


def test_the_version_is_that_of_the_package():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {pl.__version__}\n" in text


@pytest.mark.slow
def test_the_wheel_has_the_citation_file(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {done.stderr[-200:]}")
    import zipfile

    (wheel,) = tmp_path.glob("*.whl")
    assert "phaseloom/CITATION.cff" in zipfile.ZipFile(wheel).namelist()
