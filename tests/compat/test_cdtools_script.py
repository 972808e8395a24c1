"""CDTools' tutorial runs line by line, and its idioms do what they did there."""

import pickle
import re
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from phaseloom import samples
from phaseloom.compat import cdtools as CDTools
from phaseloom.data.formats import cxi
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput
from phaseloom.ptycho import probes

DATA = Path(__file__).parents[1] / "data"
STAR = samples.far_field()
N, WAVELENGTH, AWAY = 24, 1.4, 4e7
GEOMETRY = Geometry(wavelength=WAVELENGTH, shape=(N, N), angle=(4e-5, 4e-5), distance=2e10)
FancyPtycho, Ptycho2DDataset = CDTools.models.FancyPtycho, CDTools.datasets.Ptycho2DDataset


def fft(wave: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(wave, (-2, -1)), norm="ortho"), (-2, -1))


def flown(wave: np.ndarray, distance: float) -> np.ndarray:
    """Fresnel's propagation along the beam, angstrom."""
    q = np.fft.fftfreq(N, GEOMETRY.pixel[0])
    phase = -np.pi * WAVELENGTH * distance * (q[:, None] ** 2 + q[None] ** 2)
    spectrum = np.fft.fft2(np.fft.ifftshift(wave)) * np.exp(1j * phase)
    return np.fft.fftshift(np.fft.ifft2(spectrum))


def beam(distance: float) -> np.ndarray:
    """A disk's focus, flown on; a million photons."""
    y, x = np.indices((N, N)) - N // 2
    pupil = (np.hypot(y, x) < 7).astype(complex)
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))
    wave = flown(wave, distance)
    return wave * np.sqrt(1e6 / (abs(wave) ** 2).sum())


def sample(size: int = 48) -> np.ndarray:
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.random((size // 4, size // 4)), np.ones((4, 4)))
    return np.exp(0.6j * blocks)


def simulated(heights: np.ndarray | None = None) -> Scan4D:
    """An X-ray scan on whole pixels with a defocused beam; ``heights`` of the beam, angstrom."""
    steps = np.arange(3, 22, 4)
    corners = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    along = np.zeros(len(corners)) if heights is None else heights
    corners = corners[: len(along)]
    thing, rng = sample(), np.random.default_rng(0)
    waves = [beam(AWAY - h) * thing[y : y + N, x : x + N] for (y, x), h in zip(corners, along, strict=True)]
    counts = rng.poisson(abs(fft(np.array(waves))) ** 2).astype(np.uint32)
    return Scan4D(counts=counts, positions=corners * GEOMETRY.pixel[0], geometry=GEOMETRY, heights=heights)


@pytest.fixture
def dataset() -> Any:
    return Ptycho2DDataset.of(simulated())


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def blocks() -> list[str]:
    text = (DATA / "cdtools_tutorial_blocks.rst").read_text()
    found = re.split(r"\.\. code-block:: python\s*\n", text)[1:]
    return [textwrap.dedent(block.replace("\t", "        ")).strip("\n") + "\n" for block in found]


def script(file: Path, epochs: int | None = None) -> list[str]:
    """The blocks with another import line and file name, and fewer epochs if wanted."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    swaps = {
        "import CDTools\n": "from phaseloom.compat import cdtools as CDTools\n",
        "example_data/lab_ptycho_data.cxi": str(file),
        "device='cuda'": f"device='{device}'",
    }
    out = []
    for block in blocks():
        text = block
        for old, new in swaps.items():
            text = text.replace(old, new)
        out.append(re.sub(r"Adam_optimize\(\d+", f"Adam_optimize({epochs}", text) if epochs else text)
    return out


def run(text: str, names: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        exec(compile(text, "tutorial", "exec"), names)


def followed(parts: list[str]) -> dict[str, Any]:
    """What the tutorial has its reader do, in its order."""
    names: dict[str, Any] = {}
    head, load, first, loop, wider, freeze, support, longer, save = parts
    to_device = "".join(line + "\n" for line in first.splitlines()[1:])
    body = "".join(line + "\n" for line in loop.splitlines()[1:])
    Path("example_reconstructions").mkdir()
    run(head + load + first + loop, names)
    names["losses"] = list(names["model"].loss_history)
    run(wider + to_device + freeze + loop, names)
    run(support + to_device + freeze + longer.rstrip() + "\n" + body.replace("plt.show()\n", ""), names)
    run(save + "plt.show()\n", names)
    return names


def test_the_tutorial_runs_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    cxi.write(simulated(), "small.cxi")
    names = followed(script(Path("small.cxi").resolve(), epochs=4))
    model, losses = names["model"], names["losses"]
    assert len(losses) == model.epoch == 4
    assert losses[-1] < losses[0]
    assert not model.translation_offsets.any()
    assert capsys.readouterr().out.startswith(f"0 {losses[0]}")
    with open("example_reconstructions/lab_ptycho.pickle", "rb") as file:
        results = pickle.load(file)
    assert results["probe"].shape == (1, 2 * N, 2 * N)
    assert results["obj"].ndim == 2
    assert results["loss_history"].tolist() == model.loss_history


@pytest.mark.slow
def test_the_tutorial_runs_on_the_siemens_star() -> None:
    names = followed(script(STAR, epochs=6))
    assert names["losses"][-1] < 0.9 * names["losses"][0]
    assert names["model"].loss_history[-1] < names["model"].loss_history[0]


@pytest.mark.slow
def test_the_siemens_star_needs_the_right_sign_of_the_distance() -> None:
    dataset = Ptycho2DDataset.from_cxi(STAR)
    last = {}
    for away in (0.7e-3, -0.7e-3):
        model = FancyPtycho.from_dataset(dataset, n_modes=2, propagation_distance=away)
        last[away] = [loss for loss in model.Adam_optimize(18, dataset)][-1]
    assert last[0.7e-3] < 0.26
    assert last[-0.7e-3] > 1


def test_the_probe_is_flown_on_by_the_propagation_distance(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10)
    probe, truth = model.save_results()["probe"][0], beam(AWAY)
    overlap = abs(np.vdot(probe, truth)) / np.linalg.norm(probe) / np.linalg.norm(truth)
    wrong = abs(np.vdot(probe, beam(-AWAY))) / np.linalg.norm(probe) / np.linalg.norm(truth)
    assert overlap > 0.95
    assert wrong < 0.8


def test_losses_come_to_the_shot_noise(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10)
    losses = list(model.LBFGS_optimize(4, dataset, lr=1, history_size=10, line_search_fn="strong_wolfe"))
    assert losses[-1] < 0.25


def test_a_schedule_calms_steps_that_are_too_large(dataset: Any) -> None:
    last = {}
    for schedule in (False, True):
        model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10)
        steps = model.Adam_optimize(60, dataset, lr=0.02, batch_size=5, schedule=schedule)
        last[schedule] = [loss for loss in steps][-1]
    assert last[True] < 0.22 < last[False]


@pytest.mark.parametrize("loss", ["amplitude mse", "intensity mse", "poisson nll"])
def test_every_loss_falls(dataset: Any, loss: str) -> None:
    model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10, loss=loss)
    losses = [value for value in model.Adam_optimize(5, dataset, batch_size=5)]
    assert losses[-1] < losses[0]


def test_a_loss_is_the_mean_square_per_trusted_pixel(dataset: Any) -> None:
    dataset.mask[3, 4] = False
    model = FancyPtycho.from_dataset(dataset)
    for part in (model.obj, model.background, model.translation_offsets, model.weights):
        part.requires_grad = False
    gap = (model(np.arange(len(dataset))).detach() + 0.01).sqrt() - (dataset.patterns + 0.01).sqrt()
    wanted = float(gap.square()[:, dataset.mask].mean())
    assert next(iter(model.Adam_optimize(1, dataset, lr=0, batch_size=100))) == pytest.approx(
        wanted, rel=1e-4
    )


@pytest.mark.parametrize(
    "options",
    [
        {"exponentiate_obj": True},
        {"phase_only": True, "exponentiate_obj": True},
        {"n_modes": 3, "oversampling": 2, "probe_support_radius": 10},
        {"randomize_ang": 0.5, "translation_scale": 10, "obj_padding": 30},
        {"allow_probe_fourier_shifts": True, "use_qe_mask": True},
        {"near_field": True},
        {"near_field": True, "propagation_distance": 0.5, "oversampling": 2},
    ],
)
def test_options_go_together_with_files(dataset: Any, options: dict[str, Any]) -> None:
    dataset.qe_mask = np.full((N, N), 0.9)
    model = FancyPtycho.from_dataset(dataset, **options)
    losses = [loss for loss in model.Adam_optimize(4, dataset, batch_size=5)]
    assert losses[-1] < losses[0]
    model.save_to_h5("model.h5", dataset)
    again = FancyPtycho.from_results_h5("model.h5")
    assert torch.equal(again(5), model(5))
    assert again.loss_history == model.loss_history
    assert type(again.core.probe) is type(model.core.probe)


@pytest.mark.parametrize("name", ["probe_shape", "propagator_fourier_crop"])
def test_what_is_not_built_is_named(dataset: Any, name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}.*not supported"):
        CDTools.models.MultislicePtycho.from_dataset(dataset, 1e-6, 2, **{name: 2})


def test_a_saturated_detector_shows_no_more(dataset: Any) -> None:
    plain = FancyPtycho.from_dataset(dataset)
    known = plain(0).detach()
    full = FancyPtycho.from_dataset(dataset, saturation=float(known.max()) / 3)
    np.testing.assert_allclose(full(0).detach(), known.clamp(max=full.core.detector.saturation))
    losses = list(full.Adam_optimize(2, dataset, batch_size=5))
    assert np.isfinite(losses).all()


def test_a_model_that_does_not_exist_is_named() -> None:
    with pytest.raises(AttributeError, match="did you mean 'FancyPtycho'"):
        _ = CDTools.models.FancyPtych


@pytest.mark.parametrize(
    "options",
    [{"loss": "mse"}, {"oversampling": 1.5}, {"probe_support_radius": -1}, {"n_modes": 0}],
)
def test_what_cannot_be_meant_is_refused(dataset: Any, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))):
        FancyPtycho.from_dataset(dataset, **options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told_in_a_sentence(dataset: Any) -> None:
    with pytest.raises(BadInput, match="device"):
        FancyPtycho.from_dataset(dataset).to(device="cuda")
    with pytest.raises(BadInput, match="device"):
        dataset.get_as(device="cuda")


def test_moments_outlive_a_call(dataset: Any) -> None:
    whole, parted = FancyPtycho.from_dataset(dataset), FancyPtycho.from_dataset(dataset)
    one = list(whole.Adam_optimize(4, dataset))
    two = [*parted.Adam_optimize(2, dataset), *parted.Adam_optimize(2, dataset)]
    assert one == two == parted.loss_history
    assert torch.equal(whole.probe, parted.probe)


def test_an_optimiser_is_taken_up_again_after_another(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10)
    calls = [
        model.Adam_optimize(3, dataset),
        model.LBFGS_optimize(2, dataset),
        model.Adam_optimize(2, dataset),
    ]
    losses = [list(call) for call in calls]
    assert [len(part) for part in losses] == [3, 2, 2]
    assert losses[1][-1] < losses[0][0]
    assert model.epoch == 7


def test_gradient_descent_falls(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, propagation_distance=AWAY * 1e-10)
    losses = list(model.SGD_optimize(5, dataset))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", ["Adam_optimize", "LBFGS_optimize", "SGD_optimize"])
def test_what_is_frozen_stays(dataset: Any, method: str) -> None:
    model = FancyPtycho.from_dataset(dataset)
    list(getattr(model, method)(2, dataset))
    model.probe.requires_grad = False
    model.translation_offsets.requires_grad = False
    before = model.probe.clone(), model.translation_offsets.clone(), model.obj.clone()
    list(getattr(model, method)(2, dataset))
    assert torch.equal(model.probe, before[0])
    assert torch.equal(model.translation_offsets, before[1])
    assert not torch.equal(model.obj, before[2])
    assert "probe" not in model.report()


def test_obj_speaks_for_amplitude_and_phase(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, exponentiate_obj=True)
    model.obj.requires_grad = False
    list(model.Adam_optimize(2, dataset))
    assert bool((model.core.object.amplitude == 1).all())


def test_the_support_holds_at_every_step(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset, probe_support_radius=6)
    y, x = np.indices((N, N)) - N // 2
    for _ in model.Adam_optimize(2, dataset):
        assert not model.save_results()["probe"][:, np.hypot(y, x) >= 6].any()


def test_offsets_move_faster_by_their_scale(dataset: Any) -> None:
    moves = []
    for scale in (1, 4):
        model = FancyPtycho.from_dataset(dataset, translation_scale=scale)
        list(model.Adam_optimize(1, dataset, batch_size=100))
        moves.append(abs(model.core.scan.angstrom() - dataset.scan.positions).mean())
    assert float(moves[1] / moves[0]) == pytest.approx(4, rel=0.1)


def test_factors_and_subsets_are_checked(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset)
    with pytest.raises(BadInput, match="did you mean 'probe'"):
        model.Adam_optimize(1, dataset, lr_factors={"prob": 2})
    with pytest.raises(BadInput, match="subset"):
        model.Adam_optimize(1, dataset, subset=[99])
    before = model.probe.clone()
    list(model.Adam_optimize(1, dataset, subset=[3], lr_factors={"probe": 0, "obj": 2}))
    assert torch.equal(model.probe, before)
    moved = model.translation_offsets.detach().any(1)
    assert moved.nonzero().ravel().tolist() == [3]


def test_ctrl_c_in_an_epoch_keeps_the_one_before(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = FancyPtycho.from_dataset(dataset)
    losses = [next(iter(model.Adam_optimize(1, dataset)))]
    before = model.probe.clone()

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(model.core), "misfit", interrupt)
        assert list(model.Adam_optimize(5, dataset)) == []
    assert torch.equal(model.probe, before)
    losses += list(model.Adam_optimize(1, dataset))
    assert model.loss_history == losses


def test_results_are_saved_when_something_breaks(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset)
    steps = model.Adam_optimize(3, dataset)

    def breaking() -> None:
        with model.save_on_exception("broken.h5", dataset):
            next(steps)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaking()
    assert CDTools.models.CDIModel.from_results_h5("broken.h5").epoch == 1


def test_results_tell_what_was_found(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset)
    list(model.Adam_optimize(2, dataset))
    results = model.save_results(dataset)
    assert results["original_translations"] == pytest.approx(dataset.translations.numpy(), abs=1e-13)
    pixels = (results["translations"] - results["original_translations"])[:, [1, 0]] @ np.diag([-1, -1])
    assert pixels / (GEOMETRY.pixel[0] * 1e-10) == pytest.approx(
        model.translation_offsets.detach().numpy(), abs=1e-4
    )
    assert results["wavelength"] == pytest.approx(1.4e-10)
    assert results["weights"] == pytest.approx(model.weights.detach().numpy())
    assert pickle.loads(pickle.dumps(results))["epoch"] == 2
    with pytest.raises(BadInput, match="use FancyPtycho"):
        CDTools.models.SimplePtycho.from_results_h5(_written(model))


def _written(model: Any) -> str:
    model.save_to_h5("any.h5")
    with h5py.File("any.h5") as file:
        assert file["probe"].shape == (1, N, N)
    return "any.h5"


def test_compare_and_inspect_need_no_dataset(dataset: Any) -> None:
    model = FancyPtycho.from_dataset(dataset)
    model.compare()
    list(model.Adam_optimize(1, dataset))
    figure = model.inspect()
    assert model.inspect(dataset) is figure
    view = model.compare(logarithmic=False)
    view.show(3)
    with pytest.raises(BadInput, match="compare"):
        FancyPtycho.from_results_h5(_written(model)).compare()


def test_simple_ptycho_moves_object_and_probe_alone(dataset: Any) -> None:
    model = CDTools.models.SimplePtycho.from_dataset(dataset)
    losses = list(model.Adam_optimize(4, dataset))
    assert losses[-1] < losses[0]
    assert not model.translation_offsets.any()
    assert bool((model.weights == 1).all())


@pytest.mark.filterwarnings("ignore:patterns stored as 64-bit floats")
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_any_kind_of_counts_is_learned_from(kind: type) -> None:
    scan = simulated()
    cxi.write(replace(scan, counts=scan.counts.astype(kind)), "kind.cxi")
    if np.dtype(kind).kind == "f":
        with h5py.File("kind.cxi", "r+") as file:
            data = file["entry_1/instrument_1/detector_1/data"]
            data[2, 5, 6] = np.nan  # a value alone is replaced
            data[::2, 4, 7] = np.nan  # and a pixel that is lost often is masked
    dataset = Ptycho2DDataset.from_cxi("kind.cxi")
    assert bool(dataset.mask[5, 6])
    assert bool(dataset.mask[4, 7]) is (np.dtype(kind).kind != "f")
    losses = list(FancyPtycho.from_dataset(dataset).Adam_optimize(2, dataset))
    assert np.isfinite(losses).all()
    dataset.downsample(2)
    assert np.isfinite(list(FancyPtycho.from_dataset(dataset).Adam_optimize(1, dataset))).all()


def axial() -> Scan4D:
    return simulated(np.linspace(-2e7, 2e7, 12) + 1e7)


def test_the_sample_moves_along_the_beam() -> None:
    cxi.write(axial(), "axial.cxi")
    dataset = CDTools.datasets.AxialPtychoDataset.from_cxi("axial.cxi")
    assert dataset.translations[:, 2].numpy() * 1e10 == pytest.approx(axial().heights, rel=1e-5)
    plane = AWAY - float(axial().heights.mean())
    last = {}
    for sign in (1, -1):
        given = replace(axial(), heights=sign * axial().heights)
        one = CDTools.datasets.AxialPtychoDataset.of(given) if sign < 0 else dataset
        model = CDTools.models.AxialPtycho.from_dataset(one, probe=beam(plane), refine_heights=False)
        model.probe.requires_grad = model.translation_offsets.requires_grad = False
        last[sign] = list(model.Adam_optimize(30, one, lr=0.02, batch_size=4))[-1]
    assert last[1] < 0.3 * last[-1]


def test_heights_are_refined_and_saved() -> None:
    dataset = CDTools.datasets.AxialPtychoDataset.of(axial())
    model = CDTools.models.AxialPtycho.from_dataset(dataset, propagation_distance=3e-3)
    list(model.Adam_optimize(2, dataset))
    assert bool(model.heights.any())
    model.save_to_h5("axial.h5")
    again = CDTools.models.AxialPtycho.from_results_h5("axial.h5")
    assert torch.equal(again(3), model(3))
    z = model.save_results()["translations"][:, 2]
    assert z == pytest.approx(again.corrected_translations()[:, 2])
    assert abs(z - axial().heights * 1e-10).max() > 0


def test_a_probe_of_optics_may_be_given() -> None:
    dataset = CDTools.datasets.AxialPtychoDataset.of(axial())
    light = probes.aberrated(dataset.scan, semiangle=7 * 4e-5, defocus=-3e7)
    model = CDTools.models.AxialPtycho.from_dataset(dataset, probe=light)
    losses = list(model.Adam_optimize(3, dataset))
    assert losses[-1] < losses[0]
    model.save_to_h5("optics.h5")
    with pytest.raises(BadInput, match="optics"):
        CDTools.models.AxialPtycho.from_results_h5("optics.h5")


def test_an_axial_model_asks_for_heights(dataset: Any) -> None:
    with pytest.raises(BadInput, match="FancyPtycho"):
        CDTools.models.AxialPtycho.from_dataset(dataset)
    with pytest.raises(BadInput, match="Ptycho2DDataset"):
        CDTools.datasets.AxialPtychoDataset.of(dataset.scan).inspect()
