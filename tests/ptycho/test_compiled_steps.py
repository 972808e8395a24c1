"""Steps of many batches in one compiled call are those that are made one by one."""

import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting import updates
from phaseloom.fitting.newton import GaussNewton
from phaseloom.fitting.updates import HoldOut, NotFinite
from phaseloom.ptycho import noise, objects, probes, scans
from phaseloom.ptycho.curvature import Curvature
from phaseloom.ptycho.illumination import Probe
from phaseloom.ptycho.likelihood import Likelihood
from phaseloom.ptycho.model import Ptychography
from phaseloom.ptycho.newton.compiled import CompiledSteps

pytest.importorskip("numba")

MANY = 36
SIDE = 32
RATES = {"object": 0.5, "phase": 0.5, "probe": 0.4, "positions": 1.0, "affine": 0.3}
RATES |= {"rotation": 0.3, "scale": 0.3}
PLAIN_PARTS = ("object", "probe", "positions", "affine")


def make_scan(step=4.0, masked=False, angle=(1e-3, 1e-3)):
    """Counts of a disturbed Gaussian at jittered positions, ``step`` object pixels apart."""
    geometry = Geometry(wavelength=0.02, shape=(SIDE, SIDE), angle=angle)
    rng = np.random.default_rng(0)
    places = np.stack(np.meshgrid(*[np.arange(6) * step] * 2, indexing="ij"), -1).reshape(-1, 2)
    places = (places + rng.normal(0, 0.3, places.shape)) * np.array(geometry.pixel)
    y, x = np.indices((SIDE, SIDE)) - SIDE // 2
    rate = 200 * np.exp(-(y**2 + x**2) / (SIDE / 5) ** 2) * rng.uniform(0.5, 1.5, (MANY, SIDE, SIDE))
    mask = rng.random((SIDE, SIDE)) > 0.1 if masked else None
    return Scan4D(counts=rng.poisson(rate), positions=places, geometry=geometry, mask=mask)


def make_model(scan, slices=1, modes=1, dtype=torch.float64, kind="complex", lens=False):
    thickness = {"thickness": 20.0} if slices > 1 else {}
    thing = objects.pixels(scans.canvas(scan), slices=slices, kind=kind, **thickness)
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.randn(2, *thing.transmission().shape)
        modulus = 1 + 0.05 * drawn[0] if kind == "complex" else torch.ones_like(drawn[0])
        thing.set_transmission(torch.polar(modulus, 0.2 * drawn[1]))
    if lens:
        optics = {"semiangle": 8e-3, "defocus": 150.0, "aberrations": {"C12": 40.0, "phi12": 0.4, "C30": 2e5}}
        probe = probes.aberrated(scan, **optics, modes=1, refine=["C10", "C12"], soft=lens == "soft")
        return to_precision(Ptychography.of(scan, object=thing, probe=probe), dtype)
    model = Ptychography.of(scan, object=thing)
    beam = model.probe.modes().detach()
    weak = [0.2 * beam * torch.exp(1j * torch.randn(beam.shape)) for _ in range(modes - 1)]
    model.probe = Probe(torch.cat([beam, *weak]), scan.geometry)
    return to_precision(model, dtype)


def to_precision(model, dtype):
    if dtype == torch.float64:
        model.double()
        for parameter in model.parameters():
            if parameter.is_complex():
                parameter.data = parameter.data.to(torch.complex128)
    model.requires_grad_(False)
    return model


def list_moving(model, names):
    """What moves, by the name of its group and its own."""
    parts = model.parts()
    return [(name, p) for name in names for p in parts[name]]


def get_leaf(model):
    return model.object.wave if model.object.kind == "complex" else model.object.phase


def make_groups(model, start=1, names=PLAIN_PARTS):
    groups = []
    for name, parameter in list_moving(model, names):
        parameter.requires_grad_(True)
        lasting = {"start": start if name == "probe" else 1, "stop": None}
        groups.append(
            {"params": [parameter], "name": name, "lr": RATES[name], "base": RATES[name], **lasting}
        )
    return groups


def in_precision(rule, dtype):
    """A rule whose tensors have a real type; curvatures are always of single precision."""
    if not dataclasses.is_dataclass(rule):
        return rule
    changed = {}
    for one in dataclasses.fields(rule):
        value = getattr(rule, one.name)
        if isinstance(value, torch.Tensor):
            changed[one.name] = value.to(dtype)
        elif one.name == "prior" and value is not None:
            changed[one.name] = value._replace(centre=value.centre.to(dtype))
        elif one.name == "_inverses":
            changed[one.name] = {}
    return dataclasses.replace(rule, **changed)


def run(
    scan,
    *,
    together,
    pieces=1,
    size=6,
    epochs=3,
    dtype=torch.float64,
    start=1,
    held=False,
    steps_of=CompiledSteps,
    **parts,
):
    """Losses of epochs, what moved, and the optimiser."""
    divergence = parts.pop("divergence", noise.poisson)
    background = parts.pop("background", 0.0)
    names = parts.pop("names", PLAIN_PARTS)
    model = make_model(scan, dtype=dtype, **parts)
    twin = make_model(scan, dtype=torch.float32, **parts)
    for each in (model, twin):
        if background:
            each.detector.start_background(background)
    likelihood = Likelihood(model, scan, divergence)
    optimizer = GaussNewton(make_groups(model, start, names), pull=0.1)
    make_groups(twin, names=names)
    curvature = Curvature(twin, Likelihood(twin, scan, divergence))
    get_leaf(model).touched = []
    steps = Counted(steps_of(model, likelihood, optimizer))
    optimizer.step_together = steps if together else None
    history = []
    for epoch in range(1, epochs + 1):
        with torch.no_grad():
            for own, other in zip(twin.parameters(), model.parameters(), strict=True):
                own.copy_(other)
        place = dict(zip(twin.parameters(), model.parameters(), strict=True))
        rules = {place[p]: in_precision(rule, dtype) for p, rule in curvature(history).items()}
        optimizer.set_rules(rules, curvature.momentum)
        order = torch.randperm(MANY, generator=torch.Generator().manual_seed(epoch))
        learned, left = order[: MANY - 6], order[MANY - 6 :]
        batches = [batch.tensor_split(pieces) if pieces > 1 else batch for batch in learned.split(size)]
        found = updates.step_on_each(likelihood, batches, optimizer, epoch, None)
        kept = HoldOut([left], ["positions"]) if held else HoldOut()
        holdout = updates.measure_holdout(likelihood, kept, optimizer, epoch)
        history.append({"loss": sum(found.terms.values()), "terms": found.terms, "holdout": holdout})
    assert steps.done == (together and epochs * (2 if held else 1))
    losses = torch.tensor([[one["loss"], one["holdout"] or 0.0] for one in history])
    return [losses, *(p.detach().clone() for _, p in list_moving(model, names))], optimizer


class Counted:
    """Counts the calls that did something."""

    def __init__(self, call):
        self.call = call
        self.done = 0

    def __call__(self, *given):
        found = self.call(*given)
        self.done += found is not None
        return found


def assert_same(scan, tolerance=1e-11, **knobs):
    (one, first), (other, second) = (run(scan, together=own, **knobs) for own in (True, False))
    for a, b in zip(one, other, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()
    before = make_model(scan, **pick_parts(knobs))
    for moved, (name, at_first) in zip(
        one[1:], list_moving(before, knobs.get("names", PLAIN_PARTS)), strict=True
    ):
        assert not torch.equal(moved, at_first), name
    for p, q in zip(*(optimizer.param_groups for optimizer in (first, second)), strict=True):
        assert p["size"] == q["size"]
        assert (p["params"][0] in first.state) == (q["params"][0] in second.state)


def pick_parts(knobs):
    return {name: knobs[name] for name in ("slices", "modes", "kind", "lens") if name in knobs}


@pytest.mark.parametrize(("slices", "modes"), [(1, 1), (3, 1), (1, 2), (2, 3)])
def test_steps_are_those_that_are_made_one_by_one(slices, modes):
    assert_same(make_scan(), slices=slices, modes=modes)


@pytest.mark.parametrize(
    "knobs",
    [
        {"pieces": 3},
        {"size": 7},
        {"start": 2},
        {"held": True},
        {"divergence": noise.amplitude},
        {"divergence": partial(noise.poisson, limit=3.0), "background": 2.0},
    ],
    ids=["pieces", "size", "start", "held", "amplitude", "poisson"],
)
def test_the_same_holds_for_what_a_fit_may_ask_for(knobs):
    assert_same(make_scan(masked=True), **knobs)


@pytest.mark.parametrize("slices", [1, 2])
@pytest.mark.parametrize("step", [4.0, 25.0])
def test_phases_move_as_they_do_one_by_one(slices, step):
    names = ("phase", "probe", "positions")
    assert_same(make_scan(step), slices=slices, kind="phase", names=names, held=True)


@pytest.mark.parametrize("lens", ["sharp", "soft"])
@pytest.mark.parametrize("kind", ["complex", "phase"])
def test_aberrations_and_power_of_a_lens_move_as_they_do_one_by_one(lens, kind):
    names = ("object" if kind == "complex" else "phase", "probe", "positions")
    assert_same(make_scan(), lens=lens, kind=kind, names=names)


def test_rotation_and_scale_move_as_they_do_one_by_one():
    names = ("phase", "probe", "rotation", "scale", "positions")
    assert_same(make_scan(angle=(1e-3, 1.3e-3)), kind="phase", lens="sharp", names=names, pieces=2)
    assert_same(make_scan(angle=(1e-3, 1.3e-3)), names=("object", "rotation", "affine"))


@pytest.mark.parametrize("pieces", [1, 2])
def test_windows_that_lie_apart_move_what_they_touch_alone(pieces):
    assert_same(make_scan(step=25.0), pieces=pieces)


def test_patterns_that_are_read_in_parts_give_the_same(monkeypatch):
    from phaseloom.ptycho import likelihood
    from phaseloom.ptycho.newton import compiled

    known, _ = run(make_scan(), together=True)
    monkeypatch.setattr(likelihood, "MAX_FLOAT_BYTES", 0)
    monkeypatch.setattr(compiled, "BYTES_AT_ONCE", 15 * 4 * SIDE**2)
    found, _ = run(make_scan(), together=True)
    assert all(torch.equal(a, b) for a, b in zip(found, known, strict=True))


def test_single_precision_gives_the_same_bits_every_time():
    results = [run(make_scan(), together=True, dtype=torch.float32, modes=2)[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def make_steps(scan, divergence=noise.poisson):
    """A model in single precision with steps that are ready to be taken."""
    model = make_model(scan, dtype=torch.float32)
    likelihood = Likelihood(model, scan, divergence)
    optimizer = GaussNewton(make_groups(model))
    model.object.wave.touched = []
    curvature = Curvature(model, likelihood)
    optimizer.set_rules(curvature([]), curvature.momentum)
    return model, likelihood, optimizer, CompiledSteps(model, likelihood, optimizer)


def test_what_follows_from_positions_is_computed_anew_after_steps():
    model, likelihood, optimizer, steps = make_steps(make_scan())
    for _ in range(2):
        optimizer.set_rules(Curvature(model, likelihood)([{"loss": 2.0}]), 0.9)
        model.scan(torch.arange(3))
        assert steps(likelihood, [torch.arange(12)], 1) is not None
    seen = torch.cat(model.scan(torch.arange(MANY)), 1)
    model.scan._positions_cache.stamps = ()
    assert model.scan.affine.any()
    assert torch.equal(seen, torch.cat(model.scan(torch.arange(MANY)), 1))


def test_what_follows_from_phases_is_computed_anew_after_an_interrupt(monkeypatch):
    from phaseloom.physics.engine import steps as kernels
    from phaseloom.ptycho.newton import compiled

    scan = make_scan()
    model = make_model(scan, kind="phase", dtype=torch.float32)
    likelihood = Likelihood(model, scan, noise.poisson)
    optimizer = GaussNewton(make_groups(model, names=("phase",)))
    model.object.phase.touched = []
    optimizer.set_rules(Curvature(model, likelihood)([{"loss": 2.0}]), 0.9)
    steps = CompiledSteps(model, likelihood, optimizer)
    step_batches, calls = kernels.step_batches, []

    def stop_at_second(*given):
        calls.append(given[-2])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step_batches(*given)

    monkeypatch.setattr(kernels, "step_batches", stop_at_second)
    monkeypatch.setattr(compiled, "NUMBERS_AT_ONCE", 12 * 2 * SIDE**2)
    before = model(torch.arange(6)).detach()
    with pytest.raises(KeyboardInterrupt):
        steps(likelihood, torch.arange(MANY).split(6), 1)
    seen = model(torch.arange(6)).detach()
    fresh = make_model(scan, kind="phase", dtype=torch.float32)
    with torch.no_grad():
        fresh.object.phase.copy_(model.object.phase)
    assert not torch.equal(seen, before)
    assert torch.equal(seen, fresh(torch.arange(6)))


def test_other_experiments_are_left_to_single_steps():
    scan = make_scan()
    model, likelihood, optimizer, steps = make_steps(scan)
    batches = [torch.arange(6)]
    before = model.object.wave.detach().clone()
    assert steps(Likelihood(model, scan), batches, 1) is None
    assert steps(likelihood, [torch.tensor([1, 1])], 1) is None
    model.scan.lines.requires_grad_(True)
    optimizer.add_param_group(
        {"params": [model.scan.lines], "name": "lines", "lr": 0.1, "base": 0.1, "start": 2, "stop": None}
    )
    assert steps(likelihood, batches, 2) is None
    model.probe.focus.requires_grad_(True)
    assert steps(likelihood, batches, 1) is None
    assert torch.equal(before, model.object.wave)


def test_numbers_that_are_not_finite_are_found():
    model, likelihood, optimizer, steps = make_steps(make_scan())
    optimizer.step_together = steps
    with torch.no_grad():
        model.object.wave[..., 20, 20] = torch.nan
    with pytest.raises(NotFinite, match="noise"):
        updates.step_on_each(likelihood, [torch.arange(6)], optimizer, 1, None)


def test_kernels_that_do_not_compile_are_left_out(monkeypatch):
    from numba.core.errors import TypingError

    from phaseloom.physics.engine import misfit
    from phaseloom.physics.engine import steps as kernels

    def fail(*given):
        raise TypingError("no such type")

    _, likelihood, _, steps = make_steps(make_scan())
    monkeypatch.setattr(misfit, "_BROKEN", set())
    monkeypatch.setattr(kernels, "step_batches", fail)
    assert steps(likelihood, [torch.arange(6)], 1) is None
    assert not misfit.can_compile((SIDE, SIDE), torch.float32)
