"""Figures as files: named, checked before a run, drawn also from results of the first release."""

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest

from phaseloom import export, plot
from phaseloom.data.scan import Geometry
from phaseloom.errors import BadInput
from phaseloom.export._figures import FIGURES
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.result import Result

GEOMETRY = Geometry(wavelength=0.0417, shape=(9, 8), angle=(8e-3, 9e-3), beam="electron")


def outcome():
    """A small result that a run could have left."""
    rng = np.random.default_rng(5)
    state = {"mode powers": [2.0, 1.0], "thickness (A)": 7.0, "tilt (mrad)": [0.0, 1.0]}
    row = {"number": 1, "loss": 1.5, "holdout": 1.6, "seconds": 0.25, "terms": {"noise": 1.5}, "rates": {}}
    return Result(
        object=np.exp(0.2j * rng.normal(size=(3, 21, 26))).astype(np.complex64),
        probe=(rng.normal(size=(2, 9, 8)) + 1j * rng.normal(size=(2, 9, 8))).astype(np.complex64),
        positions=rng.uniform(1, 7, (12, 2)),
        positions_start=rng.uniform(1, 7, (12, 2)),
        pixel=GEOMETRY.pixel,
        origin=(0.0, 0.0),
        coverage=np.ones((21, 26)),
        geometry=GEOMETRY,
        thickness=7.5,
        gaps=(7.5, 7.5),
        history=[row | {"state": state}, row | {"number": 2, "state": state | {"thickness (A)": 7.5}}],
    )


def test_files_are_named_for_what_they_show(tmp_path):
    paths = export.figures(outcome(), tmp_path / "new", of=("slices", "probe"), dpi=40)
    assert [path.name for path in paths] == ["slices.png", "probe.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)


@pytest.mark.parametrize(("format", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_other_formats(tmp_path, format, start):
    (path,) = export.figures(outcome(), tmp_path, of=("losses",), format=format)
    assert path.suffix == f".{format}"
    assert path.read_bytes().startswith(start)


def test_dots_per_inch_are_the_size(tmp_path):
    sizes = []
    for dpi in (40, 80):
        (path,) = export.figures(outcome(), tmp_path / str(dpi), of=("losses",), dpi=dpi)
        sizes.append(int.from_bytes(path.read_bytes()[16:20], "big"))
    assert sizes[1] == 2 * sizes[0]


def test_every_name_is_drawn_and_every_figure_of_a_result_has_a_name(tmp_path):
    paths = export.figures(outcome(), tmp_path, of=tuple(FIGURES), dpi=30)
    assert len({path.name for path in paths}) == len(FIGURES)
    others = {"comparison", "groups", "save", "scan_overview"}
    others |= {"Live", "browse", "compare", "slide", "watching", "save_stem_visualization", "virtual_images"}
    assert {function.__name__ for function in FIGURES.values()} == set(plot.__all__) - others


@pytest.mark.parametrize("name", ["refined", "virtual_images", "save_stem_visualization"])
def test_old_names_of_figures_warn_and_work(name):
    with pytest.warns(DeprecationWarning, match=f"pl.plot.{name} is now pl."):
        assert callable(getattr(plot, name))


def test_old_names_of_attributes_warn_and_work():
    r = outcome()
    with pytest.warns(DeprecationWarning, match="Result.covered is now Result.coverage_mask"):
        assert (r.covered == r.coverage_mask).all()
    with pytest.warns(DeprecationWarning, match="Geometry.binned is now Geometry.bin"):
        assert r.geometry.binned(2) == r.geometry.bin(2)


def test_a_wrong_name_is_refused_before_anything_is_drawn(tmp_path):
    with pytest.raises(BadInput, match="did you mean 'slices'"):
        export.figures(outcome(), tmp_path / "none", of=("report", "slizes"))
    with pytest.raises(BadInput, match="above 0"):
        export.figures(outcome(), tmp_path / "none", dpi=0)
    assert not (tmp_path / "none").exists()


def test_a_parameter_file_may_ask_for_figures_and_is_refused_before_a_run(tmp_path):
    asked = {"figures": {"of": ["slices", "probe"], "dpi": 40}, "every": 5}
    (call,) = Reconstruct.of({"file": "scan.h5", "outputs": [asked]}).outputs
    assert call.when == {"every": 5}
    assert [path.name for path in call(outcome(), tmp_path)] == ["slices.png", "probe.png"]
    with pytest.raises(BadInput, match=r"outputs\[0\]: figures.of.*did you mean 'probe'"):
        Reconstruct.of({"file": "scan.h5", "outputs": [{"figures": {"of": ["prob"]}}]})


def test_results_of_the_first_release_are_drawn(tmp_path):
    outcome().save(tmp_path / "result.h5")
    with h5py.File(tmp_path / "result.h5", "r+") as file:
        for name in ("gaps", "grid", "advice", "history"):
            del file[name]
        row = {"number": 1, "loss": 1.5, "holdout": None, "rates": {"object": 0.02}, "seconds": 1.0}
        file["history"] = json.dumps([row])
    old = Result.load(tmp_path / "result.h5")
    assert old.gaps == ()
    paths = export.figures(old, tmp_path, of=tuple(FIGURES), dpi=30)
    assert all(path.stat().st_size > 500 for path in paths)


def test_a_result_without_a_run_is_drawn(tmp_path):
    paths = export.figures(replace(outcome(), history=[]), tmp_path, of=tuple(FIGURES), dpi=30)
    assert len(paths) == len(FIGURES)
