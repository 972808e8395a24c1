"""A batch on a device is queued there and never waited for.

No GPU is needed. `Lent` is a CPU tensor that says it lies elsewhere (``meta``, the one device that a
build of torch without CUDA carries through autograd), so that everything takes the way it takes on a GPU,
with true values. What a GPU would make the host wait for is written down: reading a value, shapes that
hang on values, sending from memory that is not pinned.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.direct.bright_field import Spectrum
from phaseloom.direct.explained import measure_explained_share
from phaseloom.direct.transfer import LinearOptics
from phaseloom.fitting import cuda_graph as replay
from phaseloom.fitting import optimizers
from phaseloom.fitting import updates as learn
from phaseloom.physics import adjoint
from phaseloom.physics.patches import gather, scatter
from phaseloom.ptycho import likelihood as measured_module
from phaseloom.ptycho import noise, objects, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import CountLoader, Likelihood
from phaseloom.ptycho.model import Ptychography

aten = torch.ops.aten
ELSEWHERE = torch.device("meta")
READS = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2}


class Lent(torch.Tensor):
    """A tensor that lies on another device, or says so."""

    @staticmethod
    def __new__(cls, true):
        shape = {"strides": true.stride(), "storage_offset": true.storage_offset(), "dtype": true.dtype}
        return torch.Tensor._make_wrapper_subclass(cls, true.shape, device=ELSEWHERE, **shape)

    def __init__(self, true):
        self.true = true

    def data_ptr(self):
        return self.true.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self):
        raise TypeError("a tensor on another device is no numpy array")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        with Elsewhere():
            return func(*args, **(kwargs or {}))


class Elsewhere(TorchDispatchMode):
    """Lets tensors live elsewhere; ``waits`` are the operations that host and device would wait for.

    ``tape``, if there is one, takes what is done there: operation, arguments and outcome.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.tape = [], None

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        there, target = any(isinstance(one, Lent) for one in given), kwargs.get("device")
        sent = not there and target == ELSEWHERE
        if not there and not sent:
            return func(*args, **kwargs)
        packet = func.overloadpacket
        leaving = there and target == torch.device("cpu")
        masked = packet is aten.index and any(one.dtype == torch.bool for one in given[1:])
        if leaving or masked or packet in READS or _sends(func, args, kwargs, given):
            self.waits.append(str(func))
            if self.tape is not None:
                raise RuntimeError("operation not permitted when stream is capturing\nmore about that")
        elif there:
            mixed = [one for one in given if not isinstance(one, Lent) and one.ndim]
            assert not mixed, f"{func} is given tensors of two devices"
        plain, named = tree_map_only(Lent, lambda one: one.true, (args, kwargs))
        named = {name: torch.device("cpu") if name == "device" else value for name, value in named.items()}
        out = tree_map_only(torch.Tensor, _settled, func(*plain, **named))
        if self.tape is not None:
            self.tape.append((func, plain, named, out))
        if leaving:
            return out
        if packet.__name__.endswith("_"):
            return args[0]
        return kwargs["out"] if "out" in kwargs else tree_map_only(torch.Tensor, Lent, out)


def _settled(one):
    """Conjugated at once, for the bit that puts it off does not go along."""
    return one.resolve_conj().resolve_neg()


def _sends(func, args, kwargs, given):
    """Whether numbers are sent from memory that is not pinned: at once, so the host waits."""
    hosts = [one for one in given if not isinstance(one, Lent)]
    if func.overloadpacket is aten._to_copy:
        return bool(hosts) and not kwargs.get("non_blocking")
    return func.overloadpacket is aten.copy_ and bool(hosts) and args[2:] != (True,)


class Written(TorchFunctionMode):
    """Numbers that are written in the program and sent, which no dispatcher sees."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        named = dict(kwargs or {})
        if func is torch.tensor and named.get("device") == ELSEWHERE:
            self.waits.append("torch.tensor")
            return Lent(torch.tensor(*args, **named | {"device": "cpu"}))
        if func is torch.Tensor.new_tensor and isinstance(args[0], Lent):
            self.waits.append("new_tensor")
            return Lent(args[0].true.new_tensor(*args[1:], **named))
        return func(*args, **named)


@contextmanager
def elsewhere():
    """Tables that were sent before are sent again, for they may be of another device."""
    adjoint._window_frequencies.cache_clear()
    with Elsewhere() as mode, Written(mode.waits):
        yield mode
    adjoint._window_frequencies.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def lend(module):
    """Move a module."""
    for one in module.modules():
        for name, value in one._parameters.items():
            moved = torch.nn.Parameter(Lent(value.detach().clone()), requires_grad=value.requires_grad)
            one._parameters[name] = moved
        for name, value in one._buffers.items():
            one._buffers[name] = None if value is None else Lent(value.clone())
    return module


SHAPE, PIXEL, LONG = (10, 12), (0.3, 0.25), 24


def scanned(dtype=np.uint16, mask=None):
    """Counts that nothing in particular made."""
    draw, wavelength = np.random.default_rng(0), 0.04
    angle = tuple(wavelength / (n * d) for n, d in zip(SHAPE, PIXEL, strict=True))
    geometry = Geometry(wavelength=wavelength, shape=SHAPE, angle=angle, beam="electron")
    positions = draw.uniform(0, 8, (LONG, 2)) * PIXEL
    counts = draw.poisson(30.0, (LONG, *SHAPE)).astype(dtype)
    return Scan4D(counts=counts, positions=positions, geometry=geometry, mask=mask)


def experiment(kind, slices, modes=2, scan=None):
    """A model, everything that batches move, and the history that lets positions move."""
    scan = scan if scan is not None else scanned()
    draw = torch.Generator().manual_seed(1)
    thing = objects.pixels(scans.canvas(scan), slices=slices, thickness=10.0, kind=kind)
    thing.set_transmission(
        torch.polar(*(f(0.1 * torch.rand(1, slices, *thing.canvas.shape, generator=draw)) for f in UP))
    )
    beam = torch.randn(modes, *SHAPE, dtype=torch.complex64, generator=draw)
    beam *= (30.0 * SHAPE[0] * SHAPE[1] / beam.abs().square().sum()).sqrt()
    model = Ptychography.of(scan, object=thing, probe=Probe(beam, scan.geometry))
    return scan, model


UP = (lambda x: 1 + x, lambda x: 3 * x)
RATES = {"probe": 0.3, "positions": 0.5, "weights": 0.1}
EPOCHS = [{"loss": 1.1, "holdout": None}] * 2


def prepared(
    kind, slices, *, away, scan=None, named="gauss_newton", divergence=noise.amplitude, pull=0.1, **terms
):
    """Objective and optimiser of one epoch."""
    scan, model = experiment(kind, slices, scan=scan)
    if away:
        lend(model)
    rates = dict.fromkeys(model.object.parts(), 0.2) | RATES
    model.requires_grad_(False)
    groups = optimizers.groups({name: model.parts()[name] for name in rates}, rates)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    optimizer = getattr(optimizers, named)(groups)
    likelihood = Likelihood(model, scan, divergence, terms)
    if named == "gauss_newton":
        curvature = Curvature(model, likelihood, pull=pull)
        for parameter in model.object.parameters():
            parameter.touched = []
        optimizer.set_rules(curvature(EPOCHS), curvature.momentum)
    for group in optimizer.param_groups:
        group["lr"] = group["base"]
    return model, likelihood, optimizer


def batched(size=5):
    """Two epochs, cut alike."""
    return [torch.arange(start, start + size) for start in range(0, 4 * size, size)]


def values(model):
    """Parameters by name, wherever they lie."""
    named = {name: one.detach() for name, one in model.named_parameters()}
    return {name: one.true if isinstance(one, Lent) else one for name, one in named.items()}


CASES = [("complex", 1), ("phase", 3), ("amplitude and phase", 2)]


class TestNothingIsReadBack:
    @pytest.mark.parametrize("divergence", [noise.amplitude, noise.poisson])
    @pytest.mark.parametrize(("kind", "slices"), CASES)
    def test_in_a_whole_batch_with_its_step(self, kind, slices, divergence):
        """The first batch finds out what there is; then losses are read once for all batches of an epoch."""
        with elsewhere() as mode:
            _, likelihood, optimizer = prepared(kind, slices, away=True, divergence=divergence)
            learn.step_on_each(likelihood, batched()[:1], optimizer, 1, 10.0)
            mode.waits.clear()
            learn.step_on_each(likelihood, batched(), optimizer, 1, 10.0)
        assert mode.waits == ["aten._to_copy.default"]

    def test_nor_with_adam_and_penalties_on_masked_patterns(self):
        mask = np.ones(SHAPE, bool)
        mask[2, 3:] = False

        def bright(model, counts):
            return (model - counts).square().mean()

        def faint(phase):
            return phase.square().mean()

        with elsewhere() as mode:
            given = {"scan": scanned(mask=mask), "named": "adam", "bright": bright, "faint": faint}
            _, likelihood, optimizer = prepared("phase", 2, away=True, **given)
            learn.step_on_each(likelihood, batched()[:1], optimizer, 1, None)
            mode.waits.clear()
            learn.step_on_each(likelihood, batched(), optimizer, 1, None)
        assert [wait for wait in mode.waits if "local_scalar" not in wait] == ["aten._to_copy.default"]

    def test_patterns_held_out_are_read_once(self):
        with elsewhere() as mode:
            _, likelihood, optimizer = prepared("phase", 2, away=True)
            held = learn.HoldOut(batched(), ["positions"], ["noise"])
            learn.measure_holdout(likelihood, held, optimizer, 1)
            mode.waits.clear()
            learn.measure_holdout(likelihood, held, optimizer, 1)
        assert mode.waits == ["aten._to_copy.default"]

    def test_what_is_read_is_noticed(self):
        """Else the other laws would say nothing."""
        with elsewhere() as mode:
            one = Lent(torch.arange(3.0))
            bool(one.any())
            one.cpu()
            one[one > 1]
            torch.arange(3).to(ELSEWHERE)
            torch.arange(3).to(ELSEWHERE, non_blocking=True)
            with pytest.raises(AssertionError, match="two devices"):
                one + torch.arange(3)
        assert len(mode.waits) >= 4


@pytest.mark.parametrize(("kind", "slices"), CASES)
def test_an_epoch_elsewhere_comes_to_the_same(kind, slices, monkeypatch):
    """But for momentum and pull: a device moves the whole object by them, a CPU only what a batch touches."""
    monkeypatch.setattr(Curvature, "momentum", 0.0)
    with elsewhere():
        model, likelihood, optimizer = prepared(kind, slices, away=True, pull=0.0)
        there = learn.step_on_each(likelihood, batched(), optimizer, 1, None)
    here, likelihood, optimizer = prepared(kind, slices, away=False, pull=0.0)
    known = learn.step_on_each(likelihood, batched(), optimizer, 1, None)
    assert there[0]["noise"] == pytest.approx(known[0]["noise"], rel=1e-3)
    for (name, moved), still in zip(values(model).items(), values(here).values(), strict=True):
        torch.testing.assert_close(moved, still, rtol=1e-3, atol=1e-4, msg=name)


def test_windows_by_index_are_those_cut_one_by_one():
    field, corner = torch.randn(2, 3, 9, 11), torch.tensor([[0, 1], [3, 4], [3, 5]])
    with elsewhere():
        leaf = torch.nn.Parameter(Lent(field.clone()))
        cut = gather(leaf, Lent(corner), (4, 5))
        cut.square().sum().backward()
        back = scatter(cut.detach(), Lent(corner), (9, 11))
    known = torch.nn.Parameter(field.clone())
    windows = gather(known, corner, (4, 5))
    windows.square().sum().backward()
    assert torch.equal(cut.detach().true, windows.detach())
    torch.testing.assert_close(leaf.grad.true, known.grad)
    torch.testing.assert_close(back.true, scatter(windows.detach(), corner, (9, 11)))


class Noted(Likelihood):
    """Writes down what it is told and asked."""

    def __call__(self, index):
        self.order.append(("asked", index[0].item()))
        return super().__call__(index)

    def prefetch(self, pieces):
        self.order += [("told", piece[0].item()) for piece in pieces]
        super().prefetch(pieces)


class TestPatterns:
    @pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "i4", "u4", "f4", "f8"])
    @pytest.mark.parametrize("room", [0, 10**9])
    def test_are_the_same_wherever_they_lie(self, dtype, room, monkeypatch):
        scan = scanned()
        counts = scan.counts.astype(dtype)
        counts[0, 0, 0] = 200 if dtype == "u1" else 60_000 if dtype[-2:] == "u2" else 1000
        monkeypatch.setattr(measured_module, "_free_bytes", lambda device: room)
        measured = CountLoader(replace(scan, counts=counts), lambda x: x.roll(1, -1))
        index = torch.tensor([7, 0, 7])
        with elsewhere():
            there, found = measured.load(index, ELSEWHERE)
            again = measured[there]
        assert found.dtype == torch.float32
        for one in (found, again):
            assert torch.equal(one.true, measured[index])
        resident = measured.on_device[ELSEWHERE]
        assert (resident is None) == (not room)
        if room and dtype in ("u1", "u2", "i2"):
            assert resident.patterns.element_size() == counts.itemsize

    def test_stay_unread_and_unpinned_on_a_cpu(self, monkeypatch):
        monkeypatch.setattr(torch.Tensor, "pin_memory", None)
        measured = CountLoader(scanned(), lambda x: x)
        index, here = torch.tensor([3, 1]), torch.device("cpu")
        measured.prefetch([index], here)
        assert not measured.in_transfer
        assert measured.in_memory is None
        same, _ = measured.load(index, here)
        assert same is index
        assert not measured.on_device

    def test_are_sent_while_the_batch_before_is_worked_on(self, monkeypatch):
        monkeypatch.setattr(measured_module, "_free_bytes", lambda device: 0)
        with elsewhere():
            _, likelihood, optimizer = prepared("phase", 1, away=True)
            likelihood.__class__, likelihood.order = Noted, []
            pieces = [*batched()[:2], tuple(torch.arange(10, 20).split(5))]
            learn.step_on_each(likelihood, pieces, optimizer, 1, None)
        asked = [("asked", 0), ("told", 5), ("asked", 5), ("told", 10), ("told", 15)]
        assert likelihood.order == [*asked, ("asked", 10), ("asked", 15)]
        assert not likelihood.measured.in_transfer

    def test_announced_and_never_asked_for_are_forgotten(self, monkeypatch):
        monkeypatch.setattr(measured_module, "_free_bytes", lambda device: 0)
        measured = CountLoader(scanned(), lambda x: x)
        index = [torch.tensor([n]) for n in range(3)]
        with elsewhere():
            measured.prefetch(index[:2], ELSEWHERE)
            measured.prefetch(index[2:], ELSEWHERE)
            assert len(measured.in_transfer) == 1
            _, found = measured.load(index[0], ELSEWHERE)
        assert torch.equal(found.true, measured[index[0]])


class Taped:
    """Stands in for CUDA's graphs: does again what was done elsewhere, and writes where that was written."""

    def __init__(self, mode):
        self.mode, self.steps, self.calls = mode, [], []

    def replay(self):
        self.calls.append("replay")
        for func, args, kwargs, out in self.steps:
            pairs = zip(tree_leaves(out), tree_leaves(func(*args, **kwargs)), strict=True)
            for old, new in pairs:
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)

    @contextmanager
    def record(self, graph):
        self.calls.append("record")
        self.mode.tape = self.steps
        try:
            yield
        finally:
            self.mode.tape = None

    @contextmanager
    def beside(self, stream):
        self.calls.append("beside")
        yield

    def wait_stream(self, other):
        self.calls.append("wait")

    def install(self, monkeypatch):
        monkeypatch.setattr(replay, "supports_graphs", lambda device: device == ELSEWHERE)
        for name in ("CUDAGraph", "Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.record)
        monkeypatch.setattr(torch.cuda, "stream", self.beside)
        return self


def moving(optimizer):
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def stepped(work, optimizer, index):
    terms = work(index)
    learn._step(optimizer, len(index))
    return terms["noise"].tolist()


@pytest.mark.parametrize(("kind", "slices"), CASES)
class TestReplayed:
    def test_batches_come_to_what_plain_ones_do(self, kind, slices, monkeypatch):
        """Also when one of another size comes between."""
        order = [*batched(), *batched(), torch.arange(7), *batched()]
        found = []
        for replays in (True, False):
            with elsewhere() as mode, monkeypatch.context() as patch:
                model, likelihood, optimizer = prepared(kind, slices, away=True)
                taped = Taped(mode).install(patch)
                work = replay.GraphReplay(likelihood, moving(optimizer), size=5 if replays else 0)
                losses = [stepped(work, optimizer, Lent(index)) for index in order]
            found.append((losses, values(model)))
            assert taped.calls.count("replay") == replays * (len(order) - 1 - replay.WARM_UP_RUNS)
            assert taped.calls.count("beside") == replays * replay.WARM_UP_RUNS
            assert taped.calls.count("record") == replays
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
        for name, value in found[0][1].items():
            torch.testing.assert_close(value, found[1][1][name], rtol=1e-3, atol=1e-4, msg=name)

    def test_the_order_of_things_is_that_which_graphs_ask_for(self, kind, slices, monkeypatch):
        with elsewhere() as mode:
            _, likelihood, optimizer = prepared(kind, slices, away=True)
            taped = Taped(mode).install(monkeypatch)
            work = replay.GraphReplay(likelihood, moving(optimizer), size=5)
            for index in batched() * 2:
                stepped(work, optimizer, Lent(index))
        warm = ["wait", "beside", "wait"] * replay.WARM_UP_RUNS
        assert taped.calls == [*warm, "record", *["replay"] * (8 - replay.WARM_UP_RUNS)]

    def test_an_epoch_of_many_batches_is_replayed(self, kind, slices, monkeypatch):
        """One of another size, and one in pieces, go the plain way."""
        order = [*batched() * 4, torch.arange(7), (torch.arange(3), torch.arange(3, 6))]
        found = []
        for recorded in (True, False):
            with elsewhere() as mode, monkeypatch.context() as patch:
                model, likelihood, optimizer = prepared(kind, slices, away=True)
                taped = Taped(mode).install(patch)
                assert likelihood.recordable
                likelihood.recordable = recorded
                sums = learn.step_on_each(likelihood, order, optimizer, 1, None)
            found.append((sums.terms["noise"], values(model)))
            assert (taped.calls.count("record"), taped.calls.count("replay") > 8) == (recorded, recorded)
        assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
        for name, value in found[0][1].items():
            torch.testing.assert_close(value, found[1][1][name], rtol=1e-3, atol=1e-4, msg=name)

    def test_what_users_add_is_not_recorded(self, kind, slices):
        model, likelihood, _ = prepared(kind, slices, away=False)
        own = Likelihood(model, scanned(), lambda model, counts: (model - counts).square())
        assert likelihood.recordable
        assert not own.recordable

    def test_what_cannot_be_recorded_goes_on_plainly(self, kind, slices, monkeypatch, caplog):
        """Patterns that are read batch by batch, for one."""
        caplog.set_level("INFO", "phaseloom.fitting.cuda_graph")
        monkeypatch.setattr(measured_module, "_free_bytes", lambda device: 0)
        losses = []
        for size in (5, 0):
            with elsewhere() as mode, monkeypatch.context() as patch:
                _, likelihood, optimizer = prepared(kind, slices, away=True)
                taped = Taped(mode).install(patch)
                work = replay.GraphReplay(likelihood, moving(optimizer), size=size)
                losses.append([stepped(work, optimizer, Lent(index)) for index in batched() * 2])
                assert work.broken == bool(size)
            assert "replay" not in taped.calls
        assert losses[0] == losses[1]
        (record,) = caplog.records
        assert "no graph could be recorded (operation not permitted" in record.message
        assert "\n" not in record.message

    def test_a_cpu_knows_no_graphs(self, kind, slices):
        _, likelihood, optimizer = prepared(kind, slices, away=False)
        work = replay.GraphReplay(likelihood, moving(optimizer), size=5)
        for index in batched():
            terms = work(index)
            gradient = moving(optimizer)[0].grad.clone()
            optimizer.zero_grad()
            known = likelihood(index)["noise"]
            known.backward()
            assert torch.equal(terms["noise"], known.detach())
            assert torch.equal(gradient, moving(optimizer)[0].grad)
        assert work.graph is None
        assert not work.broken


def test_a_fit_of_optics_is_where_its_spectrum_is():
    draw = torch.Generator().manual_seed(0)
    place, frequency = (
        torch.rand(9, 2, generator=draw).double() - 0.5,
        torch.rand(4, 2, generator=draw).double(),
    )
    changes = torch.complex(*torch.randn(2, 4, 9, generator=draw).double())
    found = []
    for away in (False, True):
        point = torch.tensor([-90.0, 4.0, 0.2, 1.01, 0.02], dtype=torch.float64, requires_grad=True)
        defocus, astigmatism, rotation, step, semiangle = point
        aberrations = {"C10": defocus, "C12a": astigmatism}
        optics = LinearOptics(0.02, semiangle, aberrations, rotation=rotation, step=step)
        data = Spectrum(changes, frequency, place, torch.ones(9).double(), 0.1)
        with elsewhere():
            if away:
                names = ("values", "frequency", "place", "counts")
                data = replace(data, **{name: Lent(getattr(data, name)) for name in names})
            share = measure_explained_share(data, optics, amplitude=True).cpu()
            found.append(torch.autograd.grad(share, point)[0])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)  # a compiled kernel where it is not lent
