"""What CDTools models do around a fit: files of ours and theirs, checkpoints, simulated data, centring."""

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from phaseloom.compat import cdtools as CDTools
from phaseloom.data.importers import cdtools as cdtools_results
from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.errors import BadInput

torch.set_num_threads(1)
N, SHOTS, WAVELENGTH, DISTANCE, DETECTOR = 24, 9, 1.4e-10, 2.0, 7.5e-5
BASIS = np.array([[0, -DETECTOR], [-DETECTOR, 0], [0, 0]], np.float32)
PIXEL = WAVELENGTH * DISTANCE / (N * DETECTOR)
ALL = torch.arange(SHOTS)
Model = CDTools.models.CDIModel
FancyPtycho, Ptycho2DDataset = CDTools.models.FancyPtycho, CDTools.datasets.Ptycho2DDataset


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


def given(*, whole: bool = True) -> dict[str, Any]:
    """Arguments of a dataset, in either package: a scan on whole pixels, or between them."""
    rng = np.random.default_rng(5)
    steps = rng.integers(0, 14, (SHOTS, 2)) + (0.0 if whole else rng.random((SHOTS, 2)))
    steps += 1e-3  # above the whole pixel: CDTools takes the one below, and theirs is single precision
    y, x = np.indices((N, N)) - N // 2
    beam = 60 * np.exp((-0.07 + 0.05j) * (y**2 + x**2))
    sample = np.exp(1j * np.kron(rng.random((11, 11)), np.ones((4, 4))))
    corners = steps.astype(int)
    waves = np.array([beam * sample[a : a + N, b : b + N] for a, b in corners])
    fields = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(waves, (1, 2)), norm="ortho"), (1, 2))
    counts = rng.poisson(abs(fields) ** 2)
    return {
        "translations": np.column_stack([-steps[:, ::-1] * PIXEL, np.zeros(SHOTS)]).astype(np.float32),
        "patterns": counts.astype(np.float32),
        "wavelength": WAVELENGTH,
        "detector_geometry": {"distance": np.float32(DISTANCE), "basis": torch.tensor(BASIS)},
        "mask": rng.random((N, N)) > 0.1,
    }


def dataset(*, whole: bool = False) -> Any:
    return Ptycho2DDataset(**given(whole=whole))


def window(shape: Any) -> torch.Tensor:
    """A beam that is dark at the edges of its window."""
    y, x = (torch.arange(n) - n / 2 for n in shape)
    return torch.exp(-(y[:, None].square() + x.square()) / (2 * (min(shape) / 12) ** 2))


def blind(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


def stirred(model: Any) -> None:
    """Other numbers than those of the start in every part of a model of CDTools."""
    generator = torch.Generator().manual_seed(1)

    def drawn(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        if not bool(getattr(model, "fourier_probe", False)):
            model.probe.mul_(window(model.probe.shape[-2:]))
        model.obj.add_(0.3 * drawn(model.obj))
        if getattr(model, "weights", None) is not None:
            model.weights.add_(0.1 * drawn(model.weights))
            model.background.add_(drawn(model.background))
            pixels = torch.randint(-2, 3, model.translation_offsets.shape, generator=generator)
            model.translation_offsets.add_(pixels / model.translation_scale)
        if getattr(model, "probe_fourier_shifts", None) is not None:
            model.probe_fourier_shifts.add_(drawn(model.probe_fourier_shifts))


def saved_there(kind: str = "FancyPtycho", *, whole: bool = True, **options: Any) -> torch.Tensor:
    """Have CDTools write a file; its patterns."""
    cdtools = pytest.importorskip("cdtools")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _saved(cdtools, kind, whole, options)


def _saved(cdtools: Any, kind: str, whole: bool, options: dict[str, Any]) -> torch.Tensor:
    data = cdtools.datasets.Ptycho2DDataset(**given(whole=whole))
    data.qe_mask = torch.linspace(0.6, 1.4, N * N).reshape(N, N)
    torch.manual_seed(3)
    more = {"dz": 3e-5, "nz": 3} if kind == "MultislicePtycho" else {}
    model = getattr(cdtools.models, kind).from_dataset(data, **more, **options)
    stirred(model)
    model.loss_history, model.training_history = [3.0, 2.0], "first\nsecond\n"
    if options.get("near_field"):  # CDTools cannot save this lazy conjugate
        model.inv_angular_spectrum_propagator = model.inv_angular_spectrum_propagator.resolve_conj()
    model.save_to_h5("theirs.h5")
    with torch.no_grad():
        return model(ALL, data.translations)


OPTIONS: list[tuple[dict[str, Any], float]] = [
    ({"n_modes": 2, "use_qe_mask": True, "translation_scale": 3}, 1e-5),
    ({"oversampling": 2, "saturation": 300.0}, 1e-5),
    ({"exponentiate_obj": True}, 1e-5),
    ({"exponentiate_obj": True, "phase_only": True, "loss": "poisson nll"}, 1e-5),
    ({"phase_only": True}, 1e-5),
    ({"probe_support_radius": 7.0, "n_modes": 2}, 1e-5),
    ({"probe_fourier_crop": 3}, 1e-5),
    ({"fourier_probe": True}, 1e-5),
    ({"allow_probe_fourier_shifts": True, "oversampling": 2}, 1e-5),
    ({"probe_support_radius": 7.0, "probe_fourier_crop": 3, "oversampling": 2}, 1e-5),
    ({"n_modes": 3, "dm_rank": 2}, 1e-5),
    ({"near_field": True, "oversampling": 2}, 1e-5),
    ({"near_field": True, "propagation_distance": 3e-3}, 1e-3),  # they keep the pixel in single precision
]


@pytest.mark.parametrize(("options", "most"), OPTIONS)
def test_a_file_of_cdtools_shows_the_same_patterns(options: dict[str, Any], most: float) -> None:
    patterns = saved_there(**options)
    model = FancyPtycho.from_results_h5("theirs.h5")
    with torch.no_grad():
        assert blind(model(ALL), patterns) < most
    assert model.loss_history == [3.0, 2.0]
    assert model.fit.lines == ["first", "second"]
    model.save_to_h5("ours.h5")
    assert torch.equal(Model.from_results_h5("ours.h5")(3), model(3))


@pytest.mark.parametrize("options", [{}, {"n_modes": 3, "dm_rank": 2}, {"exponentiate_obj": True}])
def test_a_file_of_cdtools_is_read_in_our_units(options: dict[str, Any]) -> None:
    """As the model that goes on from it has object, probe and positions."""
    saved_there(**options)
    found = cdtools_results.read(Path("theirs.h5"))
    model = FancyPtycho.from_results_h5("theirs.h5")
    core, canvas = model.core, model.core.object.canvas
    with torch.no_grad():
        assert found.object == pytest.approx(core.object.transmission().numpy(), abs=1e-5)
    assert found.probe.shape == (options.get("n_modes", 1), *canvas.window)
    assert found.pixel == pytest.approx(canvas.pixel, rel=1e-5)
    assert found.origin == pytest.approx(canvas.origin, rel=1e-5)
    assert found.positions == pytest.approx(core.scan.angstrom(), rel=1e-5, abs=0.1)
    assert (found.opr_weights is None) is ("dm_rank" not in options)


def test_between_pixels_only_tails_of_the_probe_differ() -> None:
    patterns = saved_there(whole=False)
    with torch.no_grad():
        assert blind(Model.from_results_h5("theirs.h5")(ALL), patterns) < 5e-3


def test_a_file_of_cdtools_is_learned_on_from() -> None:
    data = dataset(whole=True)
    data.patterns = saved_there(n_modes=2)
    model = Model.from_results_h5("theirs.h5")
    with torch.no_grad():
        model.obj.mul_(torch.polar(torch.ones(()), 0.3 * torch.rand(model.obj.shape)))
    losses = list(model.Adam_optimize(8, data, lr=0.001))
    assert model.epoch == 10
    assert losses[-1] < losses[0]


def test_slices_of_cdtools_are_taken_over_on_whole_pixels() -> None:
    patterns = saved_there("MultislicePtycho", n_modes=2)
    model = Model.from_results_h5("theirs.h5")
    assert type(model) is CDTools.models.MultislicePtycho
    assert model.options.dz == pytest.approx(3e-5, rel=1e-4)
    with torch.no_grad():
        assert blind(model(ALL), patterns) < 1e-5
    model.save_to_h5("ours.h5")
    assert torch.equal(Model.from_results_h5("ours.h5")(3), model(3))


def test_simple_ptycho_of_cdtools_needs_the_dataset() -> None:
    patterns = saved_there("SimplePtycho")
    with pytest.raises(BadInput, match="give the dataset"):
        Model.from_results_h5("theirs.h5")
    model = CDTools.models.SimplePtycho.from_results_h5("theirs.h5", dataset(whole=True))
    with torch.no_grad():
        assert blind(model(ALL), patterns) < 1e-5
    assert not model.weights.requires_grad
    model.save_to_h5("ours.h5")
    assert not Model.from_results_h5("ours.h5").weights.requires_grad


@pytest.mark.parametrize("options", [{"n_modes": 2, "n_obj_modes": 2}, {"simulate_finite_pixels": True}])
def test_what_has_no_counterpart_is_told(options: dict[str, Any]) -> None:
    saved_there(**options)
    with pytest.raises(BadInput, match="cannot be taken over"):
        Model.from_results_h5("theirs.h5")


def test_results_know_where_their_object_lies() -> None:
    model = FancyPtycho.from_dataset(dataset(), obj_padding=3)
    found = model.save_results()
    shape = json.loads(found["canvas"])["shape"]
    assert tuple(shape) == found["obj"].shape
    again = Model.from_results_dict(found)
    assert again.core.object.canvas == model.core.object.canvas


@pytest.mark.parametrize("near", [False, True])
def test_a_near_field_is_saved_and_loaded(near: bool) -> None:
    data = dataset()
    options = {"near_field": True, "propagation_distance": 4e-3} if near else {}
    model = FancyPtycho.from_dataset(data, **options)
    list(model.Adam_optimize(1, data))
    model.save_to_h5("ours.h5")
    assert torch.equal(Model.from_results_h5("ours.h5")(2), model(2))


def test_save_on_exit_writes_whatever_happens() -> None:
    data = dataset()
    model = FancyPtycho.from_dataset(data)
    with model.save_on_exit("end.h5", data, exception_filename="broken.h5"):
        list(model.Adam_optimize(1, data))
    assert not Path("broken.h5").exists()
    with pytest.raises(KeyboardInterrupt), model.save_on_exit("again.h5", exception_filename="broken.h5"):
        raise KeyboardInterrupt
    assert not Path("again.h5").exists()
    assert Model.from_results_h5("end.h5").epoch == Model.from_results_h5("broken.h5").epoch == 1


class TestCheckpoints:
    def work(self, job: int | None, *, within: bool) -> Any:
        """A script of two loops, whole or one job of three."""
        torch.manual_seed(11)
        data = dataset()
        model = FancyPtycho.from_dataset(data, n_modes=2)
        if job is not None:
            model.use_checkpoints(job, "jobs/scan")
        for number, _ in enumerate(model.Adam_optimize(4, data, lr=0.02, batch_size=4, schedule=True)):
            if within and number == 1 and job is not None:
                model.checkpoint(data)
        if job is not None and not within:
            model.checkpoint(data)
        model.translation_offsets.data += 0.1 * torch.randn_like(model.translation_offsets)
        list(model.Adam_optimize(2, data, lr=0.005))
        if job is not None:
            model.checkpoint()
        list(model.LBFGS_optimize(1, data))
        list(model.Adam_optimize(1, data, lr=0.005))
        return model

    @pytest.mark.parametrize("within", [False, True])
    def test_a_chain_of_jobs_finds_the_same_bits(self, within: bool) -> None:
        straight = self.work(None, within=within)
        for job in (0, 1):
            with pytest.raises(SystemExit):
                self.work(job, within=within)
            assert Path(f"jobs/scan_{job}.pt").exists()
        chained = self.work(2, within=within)
        assert chained.loss_history == straight.loss_history
        assert chained.epoch == 8
        for one, other in zip(chained.core.parameters(), straight.core.parameters(), strict=True):
            assert torch.equal(one, other)
        assert not chained.skip_computation()

    def test_a_file_in_the_middle_of_a_call_resumes_to_the_same_bits(self) -> None:
        data = dataset()
        first = FancyPtycho.from_dataset(data)
        course = first.Adam_optimize(6, data, lr=0.02, batch_size=4)
        for _ in range(3):
            next(course)
        first.save_checkpoint(checkpoint_file="half.pt")
        list(course)
        second = FancyPtycho.from_dataset(data)
        second.load_checkpoint("half.pt")
        assert second.epoch == 3
        list(second.Adam_optimize(3, data, lr=0.02, batch_size=4))
        assert second.loss_history == first.loss_history
        assert torch.equal(second.obj, first.obj)

    def test_random_numbers_go_on(self) -> None:
        model = FancyPtycho.from_dataset(dataset())
        torch.manual_seed(4)
        model.save_checkpoint(checkpoint_file="start.pt")
        drawn = torch.randn(3)
        model.load_checkpoint("start.pt")
        assert torch.equal(torch.randn(3), drawn)

    def test_it_holds_what_the_optimiser_remembers(self) -> None:
        data = dataset()
        model = FancyPtycho.from_dataset(data)
        list(model.Adam_optimize(2, data))
        model.save_checkpoint(checkpoint_file="a.pt")
        (state,) = torch.load("a.pt", weights_only=True)["fit"]["optimizers"].values()
        assert all({"exp_avg", "exp_avg_sq", "step"} <= set(one) for one in state["state"].values())

    def test_what_is_no_checkpoint_is_told(self) -> None:
        model = FancyPtycho.from_dataset(dataset())
        with pytest.raises(BadInput, match="use_checkpoints"):
            model.checkpoint()
        with pytest.raises(BadInput, match="job_id"):
            model.use_checkpoints(-1, "a")
        model.use_checkpoints(1, "nowhere")
        with pytest.raises(BadInput, match="run the job before"):
            model.checkpoint()
        model.save_checkpoint(checkpoint_file="one.pt")
        other = FancyPtycho.from_dataset(dataset(), n_modes=2)
        with pytest.raises(BadInput, match="another model"):
            other.load_checkpoint("one.pt")
        Path("text.pt").write_text("text")
        with pytest.raises(BadInput, match="damaged"):
            other.load_checkpoint("text.pt")


class TestReconstructors:
    def test_they_do_what_the_model_does(self, capsys: pytest.CaptureFixture[str]) -> None:
        data, factors = dataset(), {"probe": 0.5}
        one, two = FancyPtycho.from_dataset(data), FancyPtycho.from_dataset(data)
        recon = CDTools.reconstructors.AdamReconstructor(one, data, lr_factors=factors)
        assert recon.optimizer is None
        list(recon.optimize(2, lr=0.02, batch_size=4))
        list(recon.optimize(2, lr=0.005))
        list(two.Adam_optimize(2, data, 4, 0.02, lr_factors=factors))
        list(two.Adam_optimize(2, data, lr=0.005, lr_factors=factors))
        assert one.loss_history == two.loss_history
        assert torch.equal(one.probe, two.probe)
        steps = {int(state["step"]) for state in recon.optimizer.state.values()}
        assert steps == {2 * 2 + 2 * 1}
        recon.print_lrs()
        assert "probe: 0.0025" in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["SGDReconstructor", "LBFGSReconstructor"])
    def test_every_one_of_them_falls(self, name: str) -> None:
        data = dataset()
        model = FancyPtycho.from_dataset(data)
        recon = getattr(CDTools.reconstructors, name)(model, data, subset=[0, 2, 3])
        losses = list(recon.optimize(3))
        assert losses[-1] < losses[0]
        moved = model.weights.detach() != 1
        assert moved.nonzero().ravel().tolist() == [0, 2, 3]

    def test_what_cannot_be_passed_on_is_told(self) -> None:
        data = dataset()
        recon = CDTools.reconstructors.AdamReconstructor(FancyPtycho.from_dataset(data), data)
        with pytest.raises(BadInput, match="shuffle"):
            recon.optimize(1, shuffle=False)
        with pytest.raises(BadInput, match="custom_data_loader"):
            recon.optimize(1, custom_data_loader=[])
        with pytest.raises(BadInput, match="lr_factors"):
            CDTools.reconstructors.AdamReconstructor(recon.model, data, lr_factors={"prob": 2})
        with pytest.raises(BadInput, match="subset"):
            CDTools.reconstructors.AdamReconstructor(recon.model, data, subset=[99])


class Damped(FancyPtycho):
    def regularizer(self, factors: Any) -> torch.Tensor:
        return factors[0] * self.obj.abs().square().sum()


class TestRegulariser:
    def test_a_model_without_one_says_so(self) -> None:
        data = dataset()
        with pytest.raises(BadInput, match="regularization_factor"):
            FancyPtycho.from_dataset(data).Adam_optimize(1, data, regularization_factor=[0.1])

    @pytest.mark.parametrize("name", ["Adam_optimize", "SGD_optimize", "LBFGS_optimize"])
    def test_it_pulls_and_is_not_part_of_the_loss(self, name: str) -> None:
        data = dataset()
        free, damped = Damped.from_dataset(data), Damped.from_dataset(data)
        first = next(getattr(free, name)(1, data))
        assert next(getattr(damped, name)(1, data, regularization_factor=[30.0])) >= 0.5 * first
        assert damped.obj.detach().abs().norm() < free.obj.detach().abs().norm()

    def test_it_is_added_to_the_sum_over_a_batch(self) -> None:
        """One step of plain descent: both gradients by hand, in CDTools' scale."""
        data = dataset()
        model = Damped.from_dataset(data)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name == "core.object.wave")
        before = model.obj.detach().clone()
        with torch.enable_grad():
            floor = 0.01  # of `phaseloom.ptycho.noise.amplitude`
            roots = (model(ALL) + floor).sqrt() - (data.patterns + floor).sqrt()
            loss = (roots.square() * data.mask).sum()
            (wanted,) = torch.autograd.grad(loss + model.regularizer([2.0]), model.core.object.wave)
        list(model.SGD_optimize(1, data, lr=5, regularization_factor=[2.0]))
        step = (before - model.obj.detach()).flatten()
        along = torch.vdot(step, wanted.flatten()).real / (step.norm() * wanted.norm())
        assert float(along) == pytest.approx(1, abs=1e-4)


class TestSimulation:
    def test_a_model_shows_what_it_was_made_with(self) -> None:
        data = dataset()
        model = FancyPtycho.from_dataset(data)
        list(model.Adam_optimize(3, data, lr=0.02))
        made = model.sim_to_dataset(calculation_width=4)
        with torch.no_grad():
            assert made.patterns.numpy() == pytest.approx(model(ALL).numpy(), rel=1e-4)
        assert made.translations.numpy() == pytest.approx(model.corrected_translations(), abs=1e-12)
        assert torch.equal(made.mask, data.mask)
        again = FancyPtycho.from_dataset(made)
        assert np.isfinite(next(again.Adam_optimize(1, made)))
        made.to_cxi("made.cxi")
        back = Ptycho2DDataset.from_cxi("made.cxi")
        assert back.patterns.numpy() == pytest.approx(made.patterns.numpy(), rel=1e-6)

    def test_the_sample_may_be_seen_from_elsewhere(self) -> None:
        data = dataset()
        model = FancyPtycho.from_dataset(data)
        list(model.Adam_optimize(3, data, lr=0.02))
        model.weights.requires_grad_(False).fill_(1.0)
        before = model(ALL).detach()
        places = model.corrected_translations()
        made = model.sim_to_dataset((torch.tensor([4, 4, 2]), places[[1, 6, 2]]))
        assert made.patterns.numpy() == pytest.approx(before[[1, 6, 2]].numpy(), rel=1e-3, abs=1e-3)
        assert made.translations.numpy() == pytest.approx(places[[1, 6, 2]], abs=1e-12)
        assert torch.equal(model(ALL).detach(), before)

    def test_places_off_the_object_are_refused(self) -> None:
        model = FancyPtycho.from_dataset(dataset())
        far = np.full((2, 3), 1e-4)
        with pytest.raises(BadInput, match="obj_padding"):
            model.sim_to_dataset(([0, 1], far))
        with pytest.raises(BadInput, match="one for each"):
            model.sim_to_dataset(([0], model.corrected_translations()))

    def test_a_near_field_is_simulated_too(self) -> None:
        data = dataset()
        model = FancyPtycho.from_dataset(data, near_field=True)
        made = model.sim_to_dataset()
        again = FancyPtycho.from_dataset(made, near_field=True)
        assert again.core.scan.canvas.pixel == pytest.approx(model.core.scan.canvas.pixel)

    def test_heights_are_simulated(self) -> None:
        heights = np.linspace(-4e7, 4e7, SHOTS)
        scan = replace(dataset().scan, heights=heights)
        data = CDTools.datasets.AxialPtychoDataset.of(scan)
        model = CDTools.models.AxialPtycho.from_dataset(data, propagation_distance=2e-3)
        before = model(ALL).detach()
        made = model.sim_to_dataset((ALL, data.translations[list(reversed(range(SHOTS)))]))
        assert made.patterns.numpy() == pytest.approx(before.flip(0).numpy(), rel=1e-3, abs=1e-3)
        flat = FancyPtycho.from_dataset(dataset(), propagation_distance=2e-3)
        with pytest.raises(BadInput, match="along the beam"):
            flat.sim_to_dataset((ALL, data.translations))


class TestCentre:
    def off(self, **options: Any) -> Any:
        """A model whose probe is off its middle."""
        model = FancyPtycho.from_dataset(dataset(), obj_padding=9, **options)
        shape = model.probe.shape[-2:]
        light = torch.roll(window(shape), (-5, 3), (0, 1))
        with torch.no_grad():
            model.core.probe.set_modes(
                (light * (1 + 0.5j * torch.linspace(-1, 1, shape[0])[:, None]))[None] * 50
            )
            stuff = torch.randn(model.core.object.canvas.shape, generator=torch.Generator().manual_seed(0))
            model.core.object.set_transmission(torch.polar(torch.ones_like(stuff), 0.4 * stuff)[None, None])
        return model

    @pytest.mark.parametrize("options", [{}, {"phase_only": True}, {"exponentiate_obj": True}])
    def test_patterns_stay(self, options: dict[str, Any]) -> None:
        model = self.off(**options)
        before = model(ALL).detach()
        model.center_probes()
        light = model.core.probe.modes().detach().abs().square().sum(0)
        for axis in (0, 1):
            mean = (light.sum(1 - axis) * torch.arange(N)).sum() / light.sum()
            assert float(mean) == pytest.approx(N // 2, abs=1e-3)
        assert blind(model(ALL).detach(), before) < 1e-3

    def test_a_probe_in_the_corner_comes_to_the_middle(self) -> None:
        model = self.off()
        with torch.no_grad():
            model.core.probe.set_modes(torch.roll(window((N, N)), (N // 2, N // 2), (0, 1))[None] * (5 + 0j))
        model.center_probes()
        light = model.core.probe.modes().detach().abs()[0]
        assert divmod(int(light.argmax()), N) == (N // 2, N // 2)

    def test_modes_of_every_pattern_stay(self) -> None:
        model = FancyPtycho.from_dataset(dataset(), n_modes=3, dm_rank=2)
        with torch.no_grad():
            model.core.probe.relative.mul_(torch.roll(window((N, N)), (4, -2), (0, 1)))
            model.weights.add_(0.2 * torch.randn(model.weights.shape, dtype=model.weights.dtype))
        before = model(ALL).detach()
        model.center_probes()
        assert blind(model(ALL).detach(), before) < 2e-3

    def test_a_near_field_is_refused(self) -> None:
        with pytest.raises(BadInput, match="center_probes"):
            FancyPtycho.from_dataset(dataset(), near_field=True).center_probes()


def test_intensities_are_those_of_the_shots() -> None:
    model = FancyPtycho.from_dataset(dataset())
    with torch.no_grad():
        model.weights.copy_(torch.linspace(0.5, 1.5, SHOTS))
    assert model.get_probe_intensities() == pytest.approx(np.linspace(0.5, 1.5, SHOTS))
    mixed = FancyPtycho.from_dataset(dataset(), n_modes=2, dm_rank=-1)
    assert mixed.get_probe_intensities() == pytest.approx(1, rel=1e-5)
    with torch.no_grad():
        mixed.weights[2] *= 2
    assert mixed.get_probe_intensities()[[1, 2]] == pytest.approx([1, 4], rel=1e-5)


def test_figures_are_drawn_and_written() -> None:
    data = dataset()
    model = FancyPtycho.from_dataset(data)
    list(model.Adam_optimize(2, data))
    figure = model.inspect(data, min_interval=5)
    assert model.inspect(data, min_interval=1000) is figure
    assert model.inspect(data, replot_all=True).get_axes()
    (path,) = model.save_figures("star_", ".png")
    assert path.name == "star_Reconstruction.png"
    assert path.stat().st_size > 1000
    drawn = model.plot_loss_history()
    assert drawn.axes[0].lines[0].get_ydata().tolist() == model.loss_history
    assert model.plot_loss_history(drawn, clear_fig=False) is drawn
    assert len(drawn.axes[0].lines) == 2


def test_translations_are_those_of_the_beam_as_in_cdtools() -> None:
    cdtools = pytest.importorskip("cdtools")
    dataset().to_cxi("scan.cxi")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = cdtools.datasets.Ptycho2DDataset.from_cxi("scan.cxi")
    assert there.translations.numpy() == pytest.approx(given(whole=False)["translations"], abs=1e-12)
    scan = dataset().scan
    place = there.translations.numpy() / PIXEL
    assert scan.positions / (PIXEL * 1e10) == pytest.approx(-place[:, [1, 0]], abs=1e-3)
    assert isinstance(scan, Scan4D)
    assert isinstance(scan.geometry, Geometry)
