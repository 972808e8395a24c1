"""The calls of CDTools' example scripts, with their arguments and in their order, on small data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as t
from matplotlib import pyplot as plt

import phaseloom
from phaseloom.compat import cdtools
from phaseloom.data.formats import cxi
from phaseloom.data.scan import Geometry, Scan4D

t.set_num_threads(1)
NEAR = phaseloom.samples.near_field()
SIZE = 32
GEOMETRY = Geometry(wavelength=1.4, shape=(SIZE, SIZE), angle=(4e-5, 4e-5), distance=2e10)


@pytest.fixture(autouse=True)
def _pyplot() -> Any:
    Path("example_reconstructions").mkdir()
    t.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture
def file() -> str:
    """A raster of 8 x 8 places, of which either half has some at every edge."""
    rng = np.random.default_rng(2)
    corners = np.stack(np.meshgrid(3 * np.arange(8), 3 * np.arange(8), indexing="ij"), -1).reshape(-1, 2)
    y, x = np.indices((SIZE, SIZE)) - SIZE // 2
    beam = 80 * np.exp((-0.05 + 0.04j) * (y**2 + x**2))
    sample = np.exp(0.8j * np.kron(rng.random((15, 15)), np.ones((4, 4))))
    waves = np.array([beam * sample[a : a + SIZE, b : b + SIZE] for a, b in corners])
    fields = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves, (1, 2)), norm="ortho"), (1, 2))
    counts = rng.poisson(abs(fields) ** 2).astype(np.uint16)
    scan = Scan4D(counts=counts, positions=corners * GEOMETRY.pixel[0], geometry=GEOMETRY)
    cxi.write(scan, "scan.cxi")
    return "scan.cxi"


def on_gpu(model: Any, dataset: Any) -> None:
    if t.cuda.is_available():
        model.to(device="cuda")
        dataset.get_as(device="cuda")


def fell(model: Any, epochs: int) -> None:
    assert model.epoch == epochs
    assert np.isfinite(model.loss_history).all()
    assert min(model.loss_history) < model.loss_history[0]


def test_fancy_ptycho(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = cdtools.datasets.Ptycho2DDataset.from_cxi(file)
    model = cdtools.models.FancyPtycho.from_dataset(
        dataset,
        n_modes=3,
        oversampling=2,
        probe_support_radius=120,
        propagation_distance=5e-3,
        units="mm",
        obj_view_crop=-50,
        panel_plot_mode=False,
    )
    on_gpu(model, dataset)
    recon = cdtools.reconstructors.AdamReconstructor(model, dataset)
    for _ in recon.optimize(3, lr=0.02, batch_size=10):
        print(model.report())
        model.inspect(dataset, min_interval=5)
    for _ in recon.optimize(2, lr=0.005, batch_size=50):
        print(model.report())
        model.inspect(dataset, min_interval=5)
    model.tidy_probes()
    model.inspect(dataset, replot_all=True)
    model.compare(dataset)
    assert capsys.readouterr().out.count("Epoch") == 5
    fell(model, 5)


def test_gold_ball_ptycho(file: str) -> None:
    dataset = cdtools.datasets.Ptycho2DDataset.from_cxi(file)
    pad = 10
    dataset.pad(pad)
    dataset.inspect()
    model = cdtools.models.FancyPtycho.from_dataset(
        dataset,
        n_modes=3,
        probe_support_radius=50,
        propagation_distance=2e-6,
        units="um",
        probe_fourier_crop=pad,
        plot_level=2,
    )
    model.translation_offsets.data += 0.7 * t.randn_like(model.translation_offsets)
    assert 0.5 < float(model.core.scan.offsets.detach().std()) < 0.9
    model.weights.requires_grad = False
    on_gpu(model, dataset)
    recon = cdtools.reconstructors.AdamReconstructor(model, dataset)
    with model.save_on_exception("example_reconstructions/gold_balls_earlyexit.h5", dataset):
        for epochs, settings in ((2, {"lr": 0.005, "batch_size": 50}), (2, {"lr": 0.002, "batch_size": 100})):
            for _ in recon.optimize(epochs, **settings):
                model.report()
                model.inspect(dataset, min_interval=5)
        for _ in recon.optimize(2, lr=0.001, batch_size=100, schedule=True):
            model.inspect(dataset, min_interval=5)
    model.tidy_probes()
    model.save_to_h5("example_reconstructions/gold_balls.h5", dataset)
    model.inspect(dataset, replot_all=True)
    model.compare(dataset)
    fell(model, 6)
    assert bool((model.weights == 1).all())
    again = cdtools.models.FancyPtycho.from_results_h5("example_reconstructions/gold_balls.h5")
    assert t.equal(again(3), model(3))
    seen = cdtools.models.FancyPtycho.from_results_h5(
        "example_reconstructions/gold_balls.h5", obj_view_crop=2, units="nm"
    )
    assert (seen.units, seen.obj_view_slice[0].start) == ("nm", 2)
    assert t.equal(seen(3), model(3))
    seen.inspect()


def split_up(file: str) -> None:
    """The example that fits two halves of the data and all of them, and saves each."""
    whole = cdtools.datasets.Ptycho2DDataset.from_cxi(file)
    pad = 10
    whole.pad(pad)
    dataset_1, dataset_2 = whole.split()
    for label, dataset in zip(["half_1", "half_2", "full"], [dataset_1, dataset_2, whole], strict=True):
        model = cdtools.models.FancyPtycho.from_dataset(
            dataset,
            n_modes=3,
            probe_support_radius=50,
            propagation_distance=2e-6,
            units="um",
            probe_fourier_crop=pad,
        )
        model.translation_offsets.data += 0.7 * t.randn_like(model.translation_offsets)
        model.weights.requires_grad = False
        on_gpu(model, dataset)
        recon = cdtools.reconstructors.AdamReconstructor(model, dataset)
        for _ in recon.optimize(2, lr=0.005, batch_size=50):
            model.report()
        for _ in recon.optimize(1, lr=0.002, batch_size=100):
            model.report()
        for _ in recon.optimize(1, lr=0.001, batch_size=100, schedule=True):
            model.report()
        model.tidy_probes()
        model.save_to_h5(f"example_reconstructions/gold_balls_{label}.h5", dataset)
        fell(model, 4)


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")  # a correlation has a phase
def test_gold_ball_split_and_synthesize(file: str) -> None:
    split_up(file)
    half_1 = cdtools.tools.data.h5_to_nested_dict("example_reconstructions/gold_balls_half_1.h5")
    half_2 = cdtools.tools.data.h5_to_nested_dict("example_reconstructions/gold_balls_half_2.h5")
    full = cdtools.tools.data.h5_to_nested_dict("example_reconstructions/gold_balls_full.h5")
    pad = 22
    window = np.s_[pad:-pad, pad:-pad]
    results = cdtools.tools.analysis.standardize_reconstruction_set(
        half_1, half_2, full, window=window, nbins=40
    )
    p = cdtools.tools.plotting
    for name in ("obj_half_1", "obj_half_2", "obj_full"):
        p.plot_amplitude(results[name][window], basis=results["obj_basis"])
        p.plot_phase(results[name][window], basis=results["obj_basis"])
    plt.figure()
    plt.plot(1e-6 * results["frc_freqs"], results["frc"])
    plt.plot(1e-6 * results["frc_freqs"], results["frc_threshold"], "k--")
    plt.figure()
    plt.semilogy(1e-6 * results["frc_freqs"], results["ssnr"])
    assert len(results["frc"]) == 40


def test_near_field_ptycho() -> None:
    cxi.write(cxi.read(NEAR, field="far").select(np.arange(24)), "near.cxi")
    dataset = cdtools.datasets.Ptycho2DDataset.from_cxi("near.cxi")
    dataset.inspect()
    model = cdtools.models.FancyPtycho.from_dataset(
        dataset,
        n_modes=1,
        near_field=True,
        propagation_distance=3.65e-3,
        units="um",
        obj_view_crop=-35,
        loss="poisson_nll",
        panel_plot_mode=True,
    )
    on_gpu(model, dataset)
    model.inspect(dataset)
    recon = cdtools.reconstructors.AdamReconstructor(model, dataset)
    for _ in recon.optimize(2, lr=0.04, batch_size=10):
        model.inspect(dataset, min_interval=5)
    for _ in recon.optimize(1, lr=0.005, batch_size=50):
        model.inspect(dataset, min_interval=5)
    model.tidy_probes()
    model.inspect(dataset, replot_all=True)
    model.compare(dataset)
    fell(model, 3)


def test_simple_ptycho(file: str) -> None:
    dataset = cdtools.datasets.Ptycho2DDataset.from_cxi(file)
    model = cdtools.models.SimplePtycho.from_dataset(dataset)
    on_gpu(model, dataset)
    model.inspect(dataset)
    for _ in model.Adam_optimize(3, dataset, batch_size=10):
        model.report()
        model.inspect(dataset)
    model.compare(dataset)
    fell(model, 3)


def test_tutorial_finale(file: str) -> None:
    """With our classes for those that the tutorial has its reader write."""
    from h5py import File

    with File(file, "r") as f:
        dataset = cdtools.datasets.Ptycho2DDataset.from_cxi(f)
    dataset.inspect()
    model = cdtools.models.SimplePtycho.from_dataset(dataset)
    on_gpu(model, dataset)
    for _ in model.Adam_optimize(3, dataset):
        model.inspect(dataset)
        model.report()
    model.inspect(dataset)
    model.compare(dataset)
    fell(model, 3)
