"""CDTools' datasets: what transforms do, against numpy, and what may be changed in place."""

import datetime
import importlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.backend_bases import MouseEvent
from torch.utils.data import DataLoader

from phaseloom.compat import cdtools as CDTools
from phaseloom.data.scan import LAB_BASIS
from phaseloom.errors import BadInput

RNG = np.random.default_rng(4)
COUNTS = RNG.poisson(9.0, (7, 8, 10)).astype(np.uint16)
PLACES = np.column_stack([RNG.normal(0, 1e-6, (7, 2)), np.zeros(7)])
BASIS = np.asarray(LAB_BASIS) * 7.5e-5
Ptycho2DDataset, AxialPtychoDataset = CDTools.datasets.Ptycho2DDataset, CDTools.datasets.AxialPtychoDataset


def make(kind: Any = Ptycho2DDataset, counts: np.ndarray = COUNTS, **more: Any) -> Any:
    geometry = {"distance": 1.9, "basis": BASIS}
    return kind(PLACES, counts, wavelength=1.4e-10, detector_geometry=geometry, **more)


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def test_a_pattern_comes_with_its_number_and_translation() -> None:
    (index, translation), pattern = make()[3]
    assert int(index) == 3
    assert translation.numpy() == pytest.approx(PLACES[3], rel=1e-6)
    assert pattern.numpy().tolist() == COUNTS[3].tolist()
    (index, translations), patterns = make()[[1, -1]]
    assert index.tolist() == [1, 6]
    assert (translations.shape, patterns.shape) == ((2, 3), (2, 8, 10))


def test_a_loader_of_torch_takes_it() -> None:
    (index, translation), pattern = next(iter(DataLoader(make(), batch_size=4)))
    assert index.tolist() == [0, 1, 2, 3]
    assert (tuple(translation.shape), tuple(pattern.shape)) == ((4, 3), (4, 8, 10))


def test_the_file_holds_what_the_dataset_tells(tmp_path: Path) -> None:
    make(background=np.full((8, 10), 0.5), qe_mask=np.full((8, 10), 0.9), intensities=np.ones(7)).to_cxi(
        "a.cxi"
    )
    again = Ptycho2DDataset.from_cxi("a.cxi")
    with h5py.File("a.cxi") as file:
        stored = file["entry_1/sample_1/geometry_1/translation"][()]
    assert stored == pytest.approx(-PLACES)  # files hold the motion of the sample
    assert again.translations.numpy() == pytest.approx(PLACES, rel=1e-6)
    assert float(again.wavelength) == pytest.approx(1.4e-10)
    assert float(again.detector_geometry["distance"]) == pytest.approx(1.9)
    assert again.detector_geometry["basis"].numpy() == pytest.approx(BASIS)
    assert bool((again.background == 0.5).all())
    assert again.qe_mask.numpy() == pytest.approx(0.9)
    with h5py.File("a.cxi") as file:
        assert torch.equal(Ptycho2DDataset.from_cxi(file).patterns, again.patterns)
    assert torch.equal(Ptycho2DDataset.from_cxi("a.cxi", load_patterns=False)[2][1], again[2][1])


@pytest.mark.parametrize(
    ("given", "widths"),
    [(3, ((3, 3), (3, 3))), ((1, 2), ((2, 2), (1, 1))), ((1, 0, 2, 4), ((2, 4), (1, 0)))],
)
def test_pad_is_that_of_numpy(given: Any, widths: Any) -> None:
    dataset = make(qe_mask=np.full((8, 10), 0.5))
    dataset.mask[0, 0] = False
    good = dataset.mask.numpy().copy()
    dataset.pad(given, value=5)
    assert dataset.patterns.numpy().tolist() == np.pad(COUNTS, ((0, 0), *widths), constant_values=5).tolist()
    assert dataset.mask.numpy().tolist() == np.pad(good, widths).tolist()
    assert dataset.qe_mask.shape == dataset.mask.shape
    other = make()
    other.pad(given, mask=False)
    assert bool(other.mask.all())


@pytest.mark.parametrize("efficiency", [None, 0.5])
def test_downsample_adds_the_good_counts_of_blocks(efficiency: float | None) -> None:
    """As in CDTools 0.3.2: a bad pixel spoils its block, unless efficiencies say how much of it is left."""
    qe_mask = None if efficiency is None else np.full((8, 8), efficiency)
    dataset = make(counts=COUNTS[:, :, :8], background=np.ones((8, 8)), qe_mask=qe_mask)
    dataset.mask[1, 1] = dataset.mask[4:6, 2:4] = False
    good = dataset.mask.numpy().copy()
    dataset.downsample(2)
    sums = (COUNTS[:, :, :8] * good).reshape(7, 4, 2, 4, 2).sum((2, 4))
    assert dataset.patterns.numpy().tolist() == sums.tolist()
    bad = (~dataset.mask).nonzero().tolist()
    assert bad == ([[0, 0], [2, 1]] if efficiency is None else [[2, 1]])
    assert dataset.detector_geometry["basis"].numpy() == pytest.approx(2 * BASIS)
    assert bool((dataset.background == 4).all())
    if efficiency is not None:
        assert dataset.qe_mask[0, 0] == 0.375
        assert dataset.qe_mask[2, 1] == 0
        assert dataset.qe_mask[3, 3] == 0.5


def test_crop_and_removal_keep_what_belongs_together() -> None:
    dataset, x, y = make(), PLACES[:, 0], PLACES[:, 1]
    low, high = np.sort(x)[[1, -2]] + [-1e-9, 1e-9]
    dataset.crop_translations((high, low, y.min() - 1e-9, y.max() + 1e-9))
    inside = (x >= low) & (x <= high)
    assert inside.sum() == 5
    assert dataset.patterns.numpy().tolist() == COUNTS[inside].tolist()
    dataset.remove_translations_mask(torch.tensor([True, False, False, False, False]))
    assert dataset.translations.numpy() == pytest.approx(PLACES[inside][1:], rel=1e-6)
    with pytest.raises(BadInput, match="roi"):
        dataset.crop_translations((1, 2, 1, 2))
    with pytest.raises(BadInput, match="to_pad"):
        dataset.pad(1.5)


def test_split_leaves_nothing_out() -> None:
    one, two = make().split()
    together = np.sort(np.concatenate([one.translations, two.translations])[:, 0])
    assert together == pytest.approx(np.sort(PLACES[:, 0]), rel=1e-6)
    assert type(one) is Ptycho2DDataset


def test_changes_in_place_reach_the_scan() -> None:
    dataset = make()
    dataset.translations[:, 1] *= -1
    dataset.patterns[2] = 7
    dataset.mask[3, 3] = False
    assert dataset.scan.positions == pytest.approx(PLACES[:, :2][:, ::-1] * [1e10, -1e10], rel=1e-5)
    assert np.all(dataset.scan.counts[2] == 7)
    assert not dataset.scan.mask[3, 3]
    assert dataset.scan.mask.sum() == 79
    dataset.wavelength = 2e-10
    assert dataset.scan.geometry.wavelength == pytest.approx(2.0)
    dataset.background = torch.ones(8, 10)
    assert dataset.scan.background.sum() == 80


def test_broken_pixels_are_masked() -> None:
    broken = COUNTS.astype(float)
    broken[4, 2, 3] = np.nan
    dataset = make(counts=broken)
    assert (~dataset.mask).nonzero().tolist() == [[2, 3]]
    assert bool(dataset.patterns.isfinite().all())


def test_what_cannot_be_a_dataset_is_told() -> None:
    with pytest.raises(BadInput, match="basis"):
        Ptycho2DDataset(PLACES, COUNTS, wavelength=1e-10, detector_geometry={"distance": 1})
    with pytest.raises(BadInput, match="translations"):
        Ptycho2DDataset(
            PLACES[:, 0], COUNTS, wavelength=1e-10, detector_geometry={"distance": 1, "basis": BASIS}
        )
    with pytest.raises(BadInput, match="is not a device"):
        make().to(device="gpux")


@pytest.mark.parametrize("logarithmic", [True, False])
def test_inspection_shows_what_was_clicked(logarithmic: bool) -> None:
    view = make().inspect(logarithmic=logarithmic)
    view.show(5)
    assert view.index == 5
    make().plot_mean_pattern()


def test_axial_inspection_shows_heights() -> None:
    dataset = make(AxialPtychoDataset)
    dataset.translations[:, 2] = torch.linspace(-1e-4, 1e-4, 7)
    assert dataset.scan.heights == pytest.approx(np.linspace(-1e6, 1e6, 7), abs=1)
    view = dataset.inspect()
    line = view.figure.axes[0].lines[0].get_ydata()
    assert line == pytest.approx(np.linspace(100, -100, 7), abs=1e-3)  # of the sample
    canvas, place = view.figure.canvas, view.figure.axes[0].transData.transform((4.2, 0.0))
    canvas.callbacks.process("button_press_event", MouseEvent("button_press_event", canvas, *place, button=1))
    assert view.index == 4


def in_memory(places: np.ndarray = PLACES) -> h5py.File:
    """A CXI file that was never on disk."""
    items = CDTools.tools.data
    file = h5py.File("never", "w", driver="core", backing_store=False)
    items.add_entry_info(file, {"title": "in memory", "start_time": datetime.datetime(2026, 1, 2, 3, 4)})
    items.add_source(file, 1.4e-10)
    items.add_detector(file, 1.9, BASIS)
    items.add_data(file, COUNTS)
    items.add_ptycho_translations(file, places)
    return file


def test_a_file_in_memory_is_read_and_written() -> None:
    with in_memory() as file, h5py.File("other", "w", driver="core", backing_store=False) as other:
        dataset = Ptycho2DDataset.from_cxi(file)
        assert dataset.patterns.numpy().tolist() == COUNTS.tolist()
        assert dataset.translations.numpy() == pytest.approx(PLACES, rel=1e-6)
        assert dataset.entry_info["start_time"] == datetime.datetime(2026, 1, 2, 3, 4)
        other.create_group("entry_1")["kept"] = 3
        dataset.to_cxi(other)
        again = Ptycho2DDataset.from_cxi(other)
        assert other["entry_1/kept"][()] == 3
        assert torch.equal(again.patterns, dataset.patterns)
        assert again.entry_info == dataset.entry_info


def test_a_scan_of_many_metres_is_read_as_it_is() -> None:
    with in_memory(PLACES * 1e8) as file:
        assert Ptycho2DDataset.from_cxi(file).translations.numpy() == pytest.approx(PLACES * 1e8, rel=1e-6)


def test_numbers_come_in_the_type_that_is_asked_for() -> None:
    dataset = make(counts=COUNTS.astype(np.float32), qe_mask=np.full((8, 10), 0.5))
    assert dataset.patterns.dtype == torch.float32
    assert dataset.translations.dtype == torch.float64
    dataset.to(dtype=torch.float64)
    kinds = {name: getattr(dataset, name).dtype for name in ("patterns", "qe_mask", "mask")}
    assert kinds == {"patterns": torch.float64, "qe_mask": torch.float64, "mask": torch.bool}


def test_what_was_given_is_told_again() -> None:
    geometry = {"distance": 1.9, "basis": BASIS, "corner": np.zeros(3)}
    sample = {"name": "star", "unit_cell": np.ones(6)}
    dataset = Ptycho2DDataset(PLACES, COUNTS, None, None, None, sample, 1.4e-10, geometry)
    assert dataset.detector_geometry == geometry
    assert dataset.sample_info == sample


def test_optics_may_be_set_later() -> None:
    """Translations stay what they are, whatever the axes of the detector."""
    dataset = Ptycho2DDataset(PLACES, COUNTS)
    assert dataset.wavelength is None
    with pytest.raises(BadInput, match="wavelength: is needed"):
        _ = dataset.scan
    dataset.detector_geometry = {"distance": 1.9, "basis": BASIS[:, ::-1]}
    dataset.wavelength = 1.4e-10
    assert dataset.translations.numpy() == pytest.approx(PLACES, rel=1e-6)
    wanted = Ptycho2DDataset(
        PLACES, COUNTS, wavelength=1.4e-10, detector_geometry={"distance": 1.9, "basis": BASIS[:, ::-1]}
    )
    assert dataset.scan.positions == pytest.approx(wanted.scan.positions)


def test_doubles_in_a_file_are_announced() -> None:
    make(counts=COUNTS.astype(float)).to_cxi("double.cxi")
    with pytest.warns(UserWarning, match="64-bit floats"):
        assert Ptycho2DDataset.from_cxi("double.cxi").patterns.dtype == torch.float32


@pytest.mark.parametrize(
    "name",
    ["datasets.base", "models.base", "reconstructors.base", "tools.analysis", "tools.data", "tools.plotting"],
)
def test_modules_of_cdtools_can_be_imported(name: str) -> None:
    module = importlib.import_module(f"phaseloom.compat.cdtools.{name}")
    assert module.__name__.endswith(name)
    assert CDTools.__version__
