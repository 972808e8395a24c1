"""Readers and noise models from outside the package: found, named, suggested, told when broken."""

import logging
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import phaseloom as pl
from phaseloom import plugins, spec
from phaseloom.cli.describe import describe
from phaseloom.data import formats
from phaseloom.data.formats import native
from phaseloom.ptycho import penalties
from phaseloom.units import Length

READER = '''
from pathlib import Path
import numpy as np
import phaseloom as pl
from phaseloom.units import Length

def read(path: Path, /, *, step: Length) -> pl.Scan4D:
    """Frames of station ZED."""
    geometry = pl.Geometry(wavelength=1.0, shape=(8, 8), angle=(1e-3, 1e-3))
    places = step * np.arange(3)[:, None] * np.ones(2)
    return pl.Scan4D(counts=np.ones((3, 8, 8)), positions=places, geometry=geometry)

def knows(path: Path) -> bool:
    """Whether a file is one of them."""
    return path.suffix == ".zed" or b"ZED" in path.read_bytes()[:8]

def even(phase, /, *, strength: float = 1.0):
    """Phase of even mean."""
    return strength * phase.mean().square()
'''


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(plugins, "_registered", {})
    yield
    plugins._list_entry_points.cache_clear()
    plugins._load_entry_point.cache_clear()


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write a package with entry points where it is found."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def written(package: str, source: str, points: str) -> None:
        info = tmp_path / "site" / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(points)
        (tmp_path / "site" / f"{package}.py").write_text(source)
        plugins._list_entry_points.cache_clear()
        plugins._load_entry_point.cache_clear()
        monkeypatch.delitem(sys.modules, package, raising=False)

    return written


@pytest.fixture
def zed(install, tmp_path) -> Path:
    """Station ZED's package, and a file of its kind."""
    points = "[phaseloom.formats]\nzed = zedstation\n[phaseloom.penalties]\neven = zedstation:even\n"
    install("zedstation", READER, points)
    (tmp_path / "a.zed").write_bytes(b"ZED 1")
    return tmp_path / "a.zed"


def test_an_installed_reader_knows_its_files(zed):
    assert formats.guess(zed) == "zed"
    scan = pl.read(zed, knobs={"step": "2 nm"})
    np.testing.assert_allclose(scan.positions[1], 20.0)
    zed.with_name("a.zed.yaml").write_text("step: 3 nm")
    np.testing.assert_allclose(pl.read(zed).positions[1], 30.0)
    zed.rename(zed.with_suffix(".npy"))
    assert formats.guess(zed.with_suffix(".npy")) == "zed"


def test_it_is_a_choice_like_any_other(zed):
    made = pl.Reconstruct.of({"file": str(zed), "read": {"zed": {"step": "2 nm"}}})
    assert made.read is not None
    assert made.read.to_full_tree() == {"zed": {"step": "2 nm"}}
    assert len(made.scan()) == 3
    assert "Frames of station ZED." in describe("read")
    assert "length with a unit" in describe("read", "zed")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"read": "zedd"}, "read: there is no 'zedd'; did you mean 'zed'?"),
        ({"read": {"zed": {"stepp": 1}}}, "read: zed: there is no 'stepp'; did you mean 'step'?"),
        ({"read": {"zed": {"step": 1}}}, "read: zed.step: 1 is not a length"),
        ({"penalties": ["evn"]}, "penalties[0]: there is no 'evn'; did you mean 'even'?"),
    ],
)
def test_a_slip_is_told_as_for_our_own(zed, tree, said):
    with pytest.raises(pl.BadInput) as caught:
        pl.Reconstruct.of({"file": str(zed), **tree})
    assert said in str(caught.value)


def test_an_unknown_format_suggests_it(zed):
    with pytest.raises(pl.BadInput, match="did you mean 'zed'"):
        pl.read(zed, format="zedd")


def test_nothing_is_loaded_before_it_is_asked_for(zed):
    assert "zed" in spec.names("phaseloom.data.formats")
    assert "zedstation" not in sys.modules
    pl.Reconstruct.of({"file": str(zed), "penalties": ["even"]})
    assert "zedstation" in sys.modules


def test_a_broken_one_is_named_and_does_not_stop_others(zed, install, caplog):
    install("brokenlab", "import nothing_of_this_name", "[phaseloom.formats]\nbroken = brokenlab\n")
    with caplog.at_level(logging.WARNING):
        assert formats.guess(zed) == "zed"
    said = "plugin formats: broken, of brokenlab: cannot be loaded (ModuleNotFoundError: No module named"
    assert said in caplog.text
    with pytest.raises(pl.BadInput) as caught:
        pl.Reconstruct.of({"file": str(zed), "read": "broken"})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    listed = describe("read")
    assert said in listed
    assert "Frames of station ZED." in listed


def test_one_that_fails_to_look_does_not_stop_others(zed, install, caplog):
    source = "def read(path, /): ...\ndef knows(path): raise OSError('no disk')"
    install("alab", source, "[phaseloom.formats]\naa = alab\n")
    assert formats.guess(zed) == "zed"
    said = "plugin formats: aa, of alab: cannot tell whether a.zed is its file (OSError: no disk): repair"
    assert said in caplog.text


def test_two_packages_with_one_name_are_told_apart(zed, install):
    install("otherlab", READER, "[phaseloom.formats]\nzed = otherlab\n")
    with pytest.raises(pl.BadInput, match="zed: is claimed by otherlab and zedstation: uninstall one"):
        pl.read(zed, format="zed")


def test_our_own_names_win(install):
    install("otherlab", READER, "[phaseloom.penalties]\nsparse = otherlab:even\n")
    made = spec.call("phaseloom.ptycho.penalties", "sparse", "penalties")
    assert made.partial().func is penalties.sparse
    assert spec.names("phaseloom.ptycho.penalties").count("sparse") == 1


def test_a_file_of_our_own_is_not_claimed_by_others(zed, tmp_path):
    scan = pl.read(zed, knobs={"step": "2 nm"})
    native.write(scan, tmp_path / "own.h5")
    plugins.register("formats", greedy())
    assert formats.guess(zed) == "greedy"
    assert formats.guess(tmp_path / "own.h5") == "native"


def greedy() -> ModuleType:
    module = ModuleType("greedy")
    vars(module).update(read=lambda path, /: None, knows=lambda path: True)
    return module


def test_a_function_of_a_script_is_registered():
    def robust(model: torch.Tensor, counts: torch.Tensor, /, *, width: Length = 1.0) -> torch.Tensor:
        """Forgiving."""
        return (model - counts).abs() / width

    pl.register("noise", robust)
    recipe = pl.Reconstruct.of({"file": "scan.cxi", "noise": {"robust": {"width": "2 A"}}})
    assert recipe.noise is not None
    assert recipe.noise.partial()(torch.tensor([4.0]), torch.tensor([2.0])).item() == 1.0
    assert recipe.to_full_tree()["noise"] == {"robust": {"width": "2 A"}}
    with pytest.raises(pl.BadInput, match="did you mean 'robust'"):
        pl.Reconstruct.of({"file": "scan.cxi", "noise": "robst"})


@pytest.mark.parametrize(
    ("room", "plugin", "name", "said"),
    [
        ("nois", abs, "a", "register: nois is not a room: did you mean 'noise'?"),
        ("noise", 3, "a", "register: noise: a: 3 is not a function"),
        ("noise", abs, "a", "is not a function"),
        ("noise", lambda m, c, /: m, None, "is not the name of a choice: give name="),
        ("noise", lambda m, c, /: m, "poisson", "poisson is a choice of the package already"),
        ("formats", ModuleType("lab.zed"), None, "zed: <module 'lab.zed'> is not a function"),
    ],
)
def test_what_cannot_be_registered(room, plugin, name, said):
    with pytest.raises(pl.BadInput) as caught:
        pl.register(room, plugin, name=name)
    assert said in str(caught.value)
    assert plugins.names("x.noise") == []


def test_an_installed_reader_that_fails_is_named_with_its_package(install, tmp_path):
    source = "def read(path, /):\n    return 1 / 0\n"
    install("brokenstation", source, "[phaseloom.formats]\nbroken = brokenstation\n")
    (tmp_path / "a.dat").write_bytes(b"1")
    fix = r"broken, of brokenstation: failed \(ZeroDivisionError: division by zero\)"
    with pytest.raises(pl.BadInput, match=f"plugin formats: {fix}"):
        pl.read(tmp_path / "a.dat", format="broken")


JUNK = """
def scalar(model, counts, /):
    return (model - counts).square().mean()

def negative(model, counts, /):
    return model - counts * model.log()

def detached(model, counts, /):
    return (model.detach() - counts).square()

def not_finite(model, counts, /):
    return (model - counts).square() / 0

def fails(model, counts, /):
    raise RuntimeError("boom")

def many(amplitude, /):
    return amplitude

def smaller(phase, /):
    return phase[..., :4, :4]

def nothing(phase, /):
    phase.clamp_(min=0)
"""


@pytest.fixture
def junklab(install):
    """A package with functions that do not do what their rooms ask for."""
    kinds = ("scalar", "negative", "detached", "not_finite", "fails")
    noises = "".join(f"{name} = junklab:{name}\n" for name in kinds)
    others = (
        "[phaseloom.penalties]\nmany = junklab:many\n[phaseloom.projections]\nsmaller = junklab:smaller\n"
    )
    install("junklab", JUNK, f"[phaseloom.noise]\n{noises}{others}nothing = junklab:nothing\n")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"noise": "scalar"}, r"noise: scalar returns \(\) for counts of \(2, 3\): return one value a pixel"),
        (
            {"noise": "negative"},
            "noise: negative is negative for 3 counts where 3 are expected: a divergence",
        ),
        ({"noise": "detached"}, "noise: detached has no gradient: compute with PyTorch all the way"),
        ({"noise": "not_finite"}, "noise: not_finite is not finite for 0 counts where 0.5 are expected"),
        (
            {"noise": "fails"},
            r"plugin noise: fails, of junklab: failed \(RuntimeError: boom\): tell its author",
        ),
        ({"penalties": ["many"]}, "penalties: many returns torch.float32 .*: return one real number"),
        (
            {"projections": ["smaller"]},
            r"projections: smaller returns \(1, 1, 4, 4\): return what it was given",
        ),
        ({"projections": ["nothing"]}, "projections: nothing returns NoneType: return what it was given"),
    ],
)
def test_a_run_refuses_what_a_plugin_returns_if_it_does_not_fit(junklab, tree, said):
    rng = np.random.default_rng(0)
    geometry = pl.Geometry(wavelength=0.04, shape=(8, 8), angle=(4e-3, 4e-3), beam="electron")
    places = np.indices((3, 3)).reshape(2, -1).T * 1.3
    scan = pl.Scan4D(counts=rng.poisson(9.0, (9, 8, 8)), positions=places, geometry=geometry)
    common = {"file": "in memory", "start": "none", "preset": "none", "epochs": 1, "holdout": 0}
    common |= {"probe": {"focused": {"semiangle": "10 mrad"}}}
    common |= {"object": {"pixels": {"kind": "amplitude and phase"}}}
    with pytest.raises(pl.BadInput, match=said):
        list(pl.Job.begin(pl.Reconstruct.of({**common, **tree}), scan=scan))


def test_a_choice_that_is_not_installed_may_be_another_package_s():
    with pytest.raises(pl.BadInput, match="poisson, or install the package that brings it"):
        pl.Reconstruct.of({"file": "scan.cxi", "noise": "welsch"})
    with pytest.raises(pl.BadInput, match="did you mean 'poisson'"):
        pl.Reconstruct.of({"file": "scan.cxi", "noise": "poison"})


def test_a_reader_may_leave_values_that_are_not_finite_here_and_there(tmp_path):
    """They were refused, and a mask took half of the detector for a thousandth of the values."""
    draw = np.random.default_rng(0)
    counts = draw.poisson(50.0, (64, 12, 12)).astype(np.float32)
    spoilt = np.where(draw.random(counts.shape) < 0.005, np.nan, counts)
    spoilt[:, 3, 4] = np.nan

    def read_spots(path: Path, /) -> pl.Scan4D:
        """Frames with lost values."""
        geometry = pl.Geometry(wavelength=0.02, shape=(12, 12), angle=(1e-3, 1e-3), beam="electron")
        return pl.Scan4D(
            counts=spoilt, positions=np.indices((8, 8)).reshape(2, -1).T * 1.0, geometry=geometry
        )

    plugins.register("formats", read_spots, name="spots")
    (tmp_path / "a.spots").write_bytes(b"x")
    scan = pl.read(tmp_path / "a.spots", format="spots")
    assert np.argwhere(~scan.mask).tolist() == [[3, 4]]
    assert np.isfinite(scan.counts[:]).all()
    kept = np.isfinite(spoilt)
    assert np.array_equal(np.asarray(scan.counts)[kept], spoilt[kept])
    assert "1 pixels are not finite and were masked" in scan.metadata["remarks"]
    assert "values that are not finite were replaced by the mean of their pixel" in scan.metadata["remarks"]
    assert np.isnan(spoilt).any()  # the arrays of the reader are its own
