"""What a reader who knows CDTools tries: attributes, options by their place, and what cannot be meant."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from phaseloom.compat import cdtools as CDTools
from phaseloom.compat.cdtools import build
from phaseloom.data.formats import cxi
from phaseloom.errors import BadInput

torch.set_num_threads(1)
N, COUNT = 16, 9
DETECTOR = {"distance": 1.0, "basis": torch.tensor([[0, -1e-4], [-1e-4, 0], [0, 0]]), "corner": None}
FancyPtycho, Ptycho2DDataset = CDTools.models.FancyPtycho, CDTools.datasets.Ptycho2DDataset
ALL = torch.arange(COUNT)
NOTHING: Any = None


def table() -> np.ndarray:
    """Translations between pixels."""
    places = np.zeros((COUNT, 3), np.float32)
    places[:, :2] = np.random.default_rng(0).uniform(0, 4e-6, (COUNT, 2))
    return places


def stack() -> np.ndarray:
    y, x = np.indices((N, N)) - N // 2
    mean = 200 * np.exp(-(y**2 + x**2) / 20)
    return np.random.default_rng(1).poisson(mean, (COUNT, N, N)).astype(np.float32)


def data(room: Any = CDTools, **changed: Any) -> Any:
    known = {"translations": table(), "patterns": stack(), "wavelength": 1e-9, "detector_geometry": DETECTOR}
    known |= changed
    return room.datasets.Ptycho2DDataset(known.pop("translations"), known.pop("patterns"), **known)


def fancy(**options: Any) -> Any:
    return FancyPtycho.from_dataset(data(), **options)


@pytest.fixture(autouse=True)
def _close() -> Any:
    yield
    plt.close("all")


OTHERS = {
    "FancyPtycho": {},
    "SimplePtycho": {},
    "MultislicePtycho": {"dz": 1e-5, "nz": 2},
    "RPI": {"probe": torch.ones(2, N, N, dtype=torch.complex64)},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestAttributes:
    @pytest.mark.parametrize("name", OTHERS)
    def test_all_that_CDTools_has_is_there(self, name: str) -> None:
        theirs = pytest.importorskip("cdtools")
        other = getattr(theirs.models, name).from_dataset(data(theirs), **OTHERS[name])
        model = getattr(CDTools.models, name).from_dataset(data(), **OTHERS[name])
        for known in (known for known in dir(other) if not known.startswith("_")):
            mine, wanted = getattr(model, known), getattr(other, known)
            if callable(wanted) and not isinstance(wanted, torch.nn.Module):
                assert callable(mine), known
            elif isinstance(wanted, torch.Tensor) and known not in ("obj", "obj_view_slice"):
                assert isinstance(mine, torch.Tensor), known
                assert mine.shape == wanted.shape, known
        assert model.obj.ndim == other.obj.ndim

    def test_constants_are_those_of_CDTools(self) -> None:
        theirs = pytest.importorskip("cdtools")
        options = {"translation_scale": 3, "saturation": 1e4, "units": "nm", "probe_support_radius": 5}
        other = theirs.models.FancyPtycho.from_dataset(data(theirs), **options)
        model = fancy(**options)
        same = ("wavelength", "det_distance", "det_basis", "obj_basis", "probe_basis", "surface_normal")
        same += ("translation_scale", "saturation", "oversampling", "fourier_probe", "exponentiate_obj")
        same += ("phase_only", "near_field", "simulate_finite_pixels", "original_translations")
        for name in same:
            one, wanted = getattr(model, name).float().numpy(), getattr(other, name).float().numpy()
            assert one == pytest.approx(wanted, rel=1e-5), name
        assert model.units == "nm"
        pixels = theirs.tools.interactions.translations_to_pixel(other.obj_basis, other.original_translations)
        begin = (pixels - model.min_translation).numpy()
        corners, rest = model.core.scan(ALL)
        assert begin == pytest.approx((corners + rest).detach().numpy(), abs=1e-3)

    def test_propagators_are_those_of_CDTools(self) -> None:
        theirs = pytest.importorskip("cdtools")
        options = {"dz": 1e-5, "nz": 2}
        other = theirs.models.MultislicePtycho.from_dataset(data(theirs), **options)
        mine = CDTools.models.MultislicePtycho.from_dataset(data(), **options).interslice_propagator
        wanted = other.interslice_propagator / other.interslice_propagator[0, 0]
        assert (mine / mine[0, 0]).numpy() == pytest.approx(wanted.numpy(), abs=1e-4)
        near = {"distance": 1e-3, "basis": 1e-7 * DETECTOR["basis"] / 1e-4}
        other = theirs.models.FancyPtycho.from_dataset(data(theirs, detector_geometry=near), near_field=True)
        model = FancyPtycho.from_dataset(data(detector_geometry=near), near_field=True)
        mine, wanted = model.angular_spectrum_propagator, other.angular_spectrum_propagator
        assert (mine / mine[0, 0]).numpy() == pytest.approx((wanted / wanted[0, 0]).numpy(), abs=1e-3)
        assert torch.equal(model.inv_angular_spectrum_propagator, mine.conj().resolve_conj())

    def test_the_object_is_a_picture_that_can_be_written_to(self) -> None:
        model = fancy()
        wave, shape = model.core.object.wave, model.core.object.canvas.shape
        assert model.obj.shape == np.angle(model.obj.detach().cpu().numpy()).shape == shape
        model.obj.data[3, 4] = 2j
        with torch.no_grad():
            model.obj[5, 6] = 3j
        assert wave[0, 0, 3, 4] == 2j
        assert wave[0, 0, 5, 6] == 3j
        model.obj.data = torch.full(shape, 1j)
        assert (wave == 1j).all()
        model.obj.requires_grad = False
        assert not wave.requires_grad
        assert not model.obj.requires_grad
        model.obj.requires_grad_(True)
        model.obj.abs().square().sum().backward()
        torch.testing.assert_close(model.obj.grad, 2 * wave.detach()[0, 0])
        model.obj.grad = None
        assert wave.grad is None

    def test_several_states_keep_their_axis(self) -> None:
        assert fancy(n_obj_modes=2).obj.shape[:-2] == (2,)

    @pytest.mark.parametrize("name", ["probe", "obj", "background", "translation_offsets", "weights"])
    def test_what_is_written_to_data_is_seen(self, name: str) -> None:
        model = fancy(probe_support_radius=6)
        with torch.no_grad():
            model.obj *= torch.rand(model.obj.shape)
            before = model(ALL)
            getattr(model, name).data[...] += 0.2
            assert not torch.allclose(model(ALL), before)

    def test_what_follows_from_the_data_cannot_be_set(self) -> None:
        with pytest.raises(BadInput, match=r"model\.mask: cannot be set"):
            fancy().mask = torch.ones(N, N, dtype=torch.bool)

    @pytest.mark.parametrize("name", ["interaction", "plot_wavefront_variation", "simulate_to_dataset"])
    def test_a_method_that_is_not_there_says_so(self, name: str) -> None:
        with pytest.raises(BadInput, match=name):
            getattr(fancy(), name)(data())

    def test_corrected_translations_are_a_tensor(self) -> None:
        found = fancy().corrected_translations(data())
        assert isinstance(found, torch.Tensor)
        assert np.asarray(found) == pytest.approx(table(), abs=1e-12)


class TestOffsets:
    def moved(self, **options: Any) -> Any:
        model = fancy(translation_scale=4, **options)
        with torch.no_grad():
            model.obj.mul_(torch.polar(torch.ones(model.obj.shape), torch.rand(model.obj.shape)))
            model.translation_offsets.copy_(torch.linspace(-0.2, 0.2, 2 * COUNT).reshape(COUNT, 2))
        return model

    def test_their_unit_is_that_of_CDTools(self) -> None:
        """``translation_scale`` pixels: the same patterns as from offsets four times as large."""
        model, plain = self.moved(), fancy()
        with torch.no_grad():
            plain.obj = model.obj.detach()
            plain.translation_offsets.copy_(4 * model.translation_offsets)
        torch.testing.assert_close(model(ALL), plain(ALL), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model.corrected_translations(), plain.corrected_translations())

    def test_a_scale_of_one_leaves_every_bit(self) -> None:
        model = fancy()
        with torch.no_grad():
            model.translation_offsets.uniform_(-1, 1)
        scan = model.core.scan
        assert torch.equal(scan.current_positions(), scan._common_positions() + scan.offsets)

    def test_steps_are_those_of_CDTools(self) -> None:
        """The first step of Adam is ``lr`` in the parameter's own unit."""
        model = fancy(translation_scale=4)
        list(model.Adam_optimize(1, model.fit.data, COUNT, 0.01))
        assert float(model.translation_offsets.detach().abs().max()) == pytest.approx(0.01, rel=0.1)
        assert np.isfinite(list(model.LBFGS_optimize(1, model.fit.data))).all()

    def test_results_and_checkpoints_agree(self) -> None:
        model = self.moved()
        model.save_to_h5("moved.h5")
        again = FancyPtycho.from_results_h5("moved.h5")
        assert torch.equal(again.translation_offsets, model.translation_offsets)
        assert torch.equal(again(ALL), model(ALL))
        model.save_checkpoint(checkpoint_file="moved.pt")
        other = fancy(translation_scale=4)
        other.load_checkpoint("moved.pt")
        assert torch.equal(other(ALL), model(ALL))
        with pytest.raises(BadInput, match="another model"):
            fancy().load_checkpoint("moved.pt")

    def test_results_of_before_are_understood(self) -> None:
        """Offsets were pixels then, whatever the scale."""
        model = self.moved()
        found = model.save_results()
        found["state_dict"]["scan.offsets"] = 4 * found["state_dict"]["scan.offsets"]
        del found["translation_scale"]
        torch.testing.assert_close(FancyPtycho.from_results_dict(found)(ALL), model(ALL))

    def test_centring_moves_positions_as_far_whatever_the_scale(self) -> None:
        models = [fancy(translation_scale=scale) for scale in (1, 4)]
        for model in models:
            with torch.no_grad():
                model.probe.mul_(torch.linspace(0.2, 1, N))
            model.center_probes()
        one, other = (model.corrected_translations() for model in models)
        assert float((one - torch.as_tensor(table())).abs().max()) > 1e-9
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-11)


def bad_frame(value: float) -> np.ndarray:
    patterns = stack()
    patterns[2] = value
    return patterns


ABSURD: dict[str, tuple[Callable[[], Any], str]] = {
    "wavelength in angstrom": (lambda: data(wavelength=1.4), "wavelength"),
    "wavelength none": (lambda: FancyPtycho.from_dataset(data(wavelength=None)), "wavelength"),
    "wavelength text": (lambda: data(wavelength="1 nm"), "wavelength"),
    "wavelength missing": (lambda: FancyPtycho.from_dataset(Ptycho2DDataset(table(), stack())), "wavelength"),
    "geometry missing": (
        lambda: Ptycho2DDataset(table(), stack(), wavelength=1e-9).scan,
        "detector_geometry",
    ),
    "geometry text": (lambda: data(detector_geometry="far"), "detector_geometry"),
    "one pattern alone": (lambda: data(translations=table()[:1], patterns=stack()[0]), "patterns"),
    "four axes": (lambda: data(patterns=stack()[None]), "patterns"),
    "no pattern": (lambda: data(translations=table()[:0], patterns=stack()[:0]), "patterns"),
    "complex patterns": (lambda: data(patterns=stack() + 1j), "patterns: complex64"),
    "text patterns": (lambda: data(patterns=stack().astype(str)), "patterns"),
    "ragged patterns": (lambda: data(patterns=[[1, 2], [3]]), "patterns"),
    "infinite frame": (lambda: data(patterns=bad_frame(np.inf)), "patterns: of the number 2"),
    "lost frame": (lambda: data(patterns=bad_frame(np.nan)), "patterns: of the number 2"),
    "text translations": (lambda: data(translations=table().astype(str)), "translations"),
    "mask of another shape": (lambda: data(mask=np.ones((N, 1), bool)), "mask"),
    "background of another shape": (lambda: data(background=np.ones((N, 1))), "background"),
    "misspelt data": (lambda: data(wave_length=1e-9), "did you mean 'wavelength'"),
    "crop of everything": (lambda: fancy(obj_view_crop=10**6), "obj_view_crop"),
    "negative phases": (lambda: fancy(randomize_ang=-1), "randomize_ang"),
    "miles": (lambda: fancy(units="miles"), "units"),
    "too fine": (lambda: fancy(oversampling=30_000), "oversampling: of 30000.*GiB"),
    "too wide": (lambda: fancy(obj_padding=10**6), "obj_padding"),
    "too many modes": (lambda: fancy(n_modes=2500), "n_modes"),
    "half a rank": (lambda: fancy(dm_rank=1.5), "dm_rank"),
    "distance with a unit": (lambda: fancy(propagation_distance="1 mm"), "propagation_distance"),
    "misspelt option": (lambda: fancy(n_mode=2), "n_mode is not an argument: did you mean 'n_modes'"),
    "no dataset": (lambda: FancyPtycho.from_dataset(NOTHING), "dataset"),
    "thickness with a unit": (lambda: thick("1 um", 2), "dz"),
    "misspelt thick option": (lambda: thick(1e-6, 2, n_mode=2), "did you mean 'n_modes'"),
    "twice": (lambda: thick(1e-6, 2, None, 0.0, randomize_ang=1.0), "randomize_ang"),
    "normal in text": (lambda: fancy(surface_normal="x"), "surface_normal"),
    "no probe": (lambda: CDTools.models.RPI.from_dataset(data(), None), "RPI: probe"),
    "no file": (lambda: FancyPtycho.from_results_h5(3), "from_results_h5"),  # type: ignore[arg-type]
    "no file of data": (lambda: Ptycho2DDataset.from_cxi(3), "from_cxi"),  # type: ignore[arg-type]
    "no thickness": (lambda: CDTools.models.MultislicePtycho.from_dataset(data(), 1e-6), "'nz'"),
}


def thick(*args: Any, **options: Any) -> Any:
    return CDTools.models.MultislicePtycho.from_dataset(data(), *args, **options)


@pytest.mark.parametrize("case", ABSURD)
def test_what_cannot_be_meant_is_refused(case: str) -> None:
    call, says = ABSURD[case]
    with pytest.raises(BadInput, match=says):
        call()


def test_memory_that_is_not_there_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available", lambda: 1e6)
    assert fancy().obj.ndim == 2
    with pytest.raises(BadInput, match="oversampling: of 8"):
        fancy(oversampling=8)


def test_pixels_that_are_infinite_are_masked() -> None:
    patterns = stack()
    patterns[:, 2, 3], patterns[4, 5, 6] = np.inf, np.inf
    made = data(patterns=patterns)
    assert (~made.mask).nonzero().tolist() == [[2, 3], [5, 6]]
    assert torch.isfinite(made.patterns).all()


CALLS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "misspelt": (lambda m, d: m.Adam_optimize(1, d, batchsize=3), "did you mean 'batch_size'"),
    "lr": (lambda m, d: m.Adam_optimize(1, d, lr="fast"), "lr: fast"),
    "lr of descent": (lambda m, d: m.SGD_optimize(1, d, lr="fast"), "lr: fast"),
    "lr_factors": (lambda m, d: m.Adam_optimize(1, d, lr_factors=3), "lr_factors"),
    "a factor": (lambda m, d: m.Adam_optimize(1, d, lr_factors={"obj": "two"}), "obj: two"),
    "iterations": (lambda m, d: m.Adam_optimize(2.5, d), "iterations: 2.5"),
    "large betas": (lambda m, d: m.Adam_optimize(1, d, betas=(2, 3)), "betas: 2"),
    "one beta": (lambda m, d: m.Adam_optimize(1, d, betas=(0.9,)), "betas"),
    "momentum": (lambda m, d: m.SGD_optimize(1, d, momentum=-1), "momentum: -1"),
    "search": (lambda m, d: m.LBFGS_optimize(1, d, line_search_fn="wolf"), "line_search_fn: wolf"),
    "history": (lambda m, d: m.LBFGS_optimize(1, d, history_size=0), "history_size"),
    "none": (lambda m, d: m.Adam_optimize(1, None), "dataset"),
    "swapped": (lambda m, d: m.Adam_optimize(d, 1), "iterations"),
    "subset": (lambda m, d: m.Adam_optimize(1, d, subset=-1), "subset: -1"),
    "subset in text": (lambda m, d: m.Adam_optimize(1, d, subset="all"), "subset"),
    "reconstructor": (lambda m, d: CDTools.reconstructors.AdamReconstructor(m, NOTHING), "dataset"),
    "results": (lambda m, d: m.save_results("x"), "save_results: dataset"),
    "compare": (lambda m, d: m.compare(3), "compare: dataset"),
    "simulate": (lambda m, d: m.sim_to_dataset(3), "args_list"),
    "an object": (lambda m, d: setattr(m, "obj", torch.ones(3, 3)), r"\(3, 3\) must have the shape"),
    "file": (lambda m, d: m.save_to_h5(d, "x"), "filename"),
    "nowhere": (lambda m, d: m.save_to_h5("/proc/x.h5", d), "cannot be written"),
    "folder": (lambda m, d: m.save_to_h5("folder", d), "is a folder"),
    "extension": (lambda m, d: m.save_figures(extension=".xyz"), r"Reconstruction\.xyz cannot be written"),
    "prefix": (lambda m, d: m.save_figures(prefix="/proc/zz"), "cannot be written"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_cannot_be_meant_is_refused(case: str) -> None:
    call, says = CALLS[case]
    Path("folder").mkdir(exist_ok=True)
    model = fancy()
    with pytest.raises(BadInput, match=says):
        call(model, model.fit.data)


class TestPlaces:
    def test_options_may_be_given_by_their_place(self) -> None:
        model = FancyPtycho.from_dataset(data(), 0, 2, 1, None, 3)
        assert (model.options.n_modes, model.options.n_obj_modes) == (2, 1)
        assert float(model.translation_scale) == 3
        model = thick(1e-6, 2, None, 0, 3)
        assert (model.options.nz, model.options.n_modes) == (2, 3)
        losses = list(model.Adam_optimize(1, model.fit.data, 5, 0.01, {"obj": 0}, (0.8, 0.99), True, True))
        assert np.isfinite(losses).all()
        assert model.fit.optimizer("Adam").param_groups[0]["betas"] == (0.8, 0.99)
        detector = (None, None, None, None, 1e-9, DETECTOR, np.ones((N, N)))
        assert Ptycho2DDataset(table(), stack(), *detector).mask.all()

    @pytest.mark.parametrize("name", ["FancyPtycho", "RPI", "Bragg2DPtycho", "MultislicePtycho"])
    def test_their_order_is_that_of_CDTools(self, name: str) -> None:
        import inspect

        theirs = pytest.importorskip("cdtools")
        calls = [(getattr(room.models, name).from_dataset) for room in (CDTools, theirs)]
        calls = [list(inspect.signature(call).parameters) for call in calls]
        assert calls[0][: len(calls[1])] == calls[1]

    def test_so_is_that_of_optimisers(self) -> None:
        import inspect

        theirs = pytest.importorskip("cdtools")
        for name in ("Adam_optimize", "SGD_optimize", "LBFGS_optimize"):
            calls = [getattr(room.models.CDIModel, name) for room in (CDTools, theirs)]
            mine, wanted = ([*inspect.signature(call).parameters] for call in calls)
            assert mine == wanted, name


def test_a_file_of_data_is_no_file_of_results() -> None:
    cxi.write(replace(data().scan, metadata={}), "far.cxi")
    for kind in (FancyPtycho, CDTools.models.CDIModel):
        with pytest.raises(BadInput, match="holds no results of a model"):
            kind.from_results_h5("far.cxi")


def test_a_fit_that_breaks_down_says_so_and_leaves_the_model() -> None:
    model = fancy()
    before = {key: value.clone() for key, value in model.core.state_dict().items()}
    with pytest.raises(BadInput, match="smaller lr"):
        list(model.LBFGS_optimize(3, model.fit.data, lr=1e30))
    assert not model.loss_history
    for key, value in model.core.state_dict().items():
        assert torch.equal(value, before[key]), key
