"""A run says what goes wrong with it, and only then."""

import numpy as np
import pytest
import torch

from phaseloom.data.scan import Geometry, Scan4D
from phaseloom.fitting import optimizers
from phaseloom.fitting.loop import Progress
from phaseloom.ptycho import objects, probes, scans
from phaseloom.ptycho.model import Ptychography
from phaseloom.reconstruction import advice


def experiment(slices=5, modes=2):
    geometry = Geometry(wavelength=0.0418, shape=(24, 24), angle=(6e-3, 6e-3), beam="electron")
    places = np.stack(np.meshgrid(np.arange(3.0), np.arange(3.0)), -1).reshape(-1, 2)
    scan = Scan4D(counts=np.full((9, 24, 24), 5.0), positions=places, geometry=geometry)
    room = scans.canvas(scan)
    thing = objects.pixels(room, slices=slices, thickness=10.0, kind="phase")
    probe = probes.focused(scan, semiangle=0.03, defocus=50.0, modes=modes)
    model = Ptychography.of(scan, object=thing, probe=probe)
    with torch.no_grad():
        noise = torch.rand(thing.phase.shape, generator=torch.Generator().manual_seed(0))
        thing.phase.copy_(0.3 * noise)
    groups = optimizers.groups(model.parts(), {"phase": 0.02})
    return model, Progress(model, optimizers.adam(groups))


@pytest.fixture
def run():
    model, progress = experiment()
    return model, advice.InitialProbe.of(model), progress


def said(run):
    return advice.advise(*run)


def test_a_good_run_hears_nothing(run):
    assert said(run) == []


@pytest.mark.parametrize(
    ("factor", "words"), [(0.5, "lost 75% of its power"), (2.0, "4.0 times its first power")]
)
def test_a_probe_that_trades_with_the_object(run, factor, words):
    with torch.no_grad():
        run[0].probe.relative *= factor
    assert words in said(run)[0]
    assert "'power'" in said(run)[0]


def test_a_phase_beyond_pi_is_told_where_there_is_light(run):
    model = run[0]
    covered = torch.as_tensor(model.coverage())
    row, column = np.unravel_index(int(covered.argmax()), covered.shape)

    def raise_phase(row, column):
        with torch.no_grad():
            model.object.phase[..., 2, row - 1 : row + 2, column - 1 : column + 2] = 2.6
            model.object.phase[..., 2, row, column] = 3.7

    raise_phase(1, 1)  # in the dark
    assert said(run) == []
    raise_phase(row, column)
    (sentence,) = said(run)
    assert "jumps by 2 pi at 4 pairs of pixels" in sentence


def test_a_mode_that_holds_nothing(run):
    with torch.no_grad():
        run[0].probe.relative[1] *= 1e-4
    assert "fewer modes" in said(run)[0]


def test_positions_off_the_canvas(run):
    with torch.no_grad():
        run[0].scan.offsets[2:4] += 100.0
    assert said(run)[0].startswith("2 positions have moved off")
    assert "freeze" not in said(run)[0]


def test_positions_are_frozen_for_half_of_what_was_done_at_their_own_rate(run):
    model, begun, progress = run
    with torch.no_grad():
        model.scan.offsets[2:4] += 100.0
    progress.epoch = 20
    progress.optimizer = optimizers.gauss_newton(optimizers.groups(model.parts(), {"positions": 1.0}))
    assert "(rates: {positions: {rate: 1, start: 11}})" in advice.advise(model, begun, progress)[0]


def test_rates_at_their_defaults_are_not_blamed_for_a_standstill(run):
    model, begun, progress = run
    progress.history.extend(
        {"number": n, "loss": 5 - 0.001 * n, "rates": {"phase": 0.2, "probe": 0.4}} for n in range(1, 21)
    )
    assert "raise the rates" in said(run)[0]
    progress.optimizer = optimizers.gauss_newton(optimizers.groups(model.parts(), {"phase": 0.2}))
    assert advice.advise(model, begun, progress) == []


@pytest.mark.parametrize(("kept", "side"), [(0, "first"), (4, "last")])
def test_an_object_that_gathers_at_one_end(run, kept, side):
    with torch.no_grad():
        phase = run[0].object.phase
        mask = torch.zeros(1, 5, 1, 1)
        mask[:, kept] = 1
        phase *= mask
    assert f"in the {side} slices" in said(run)[0]
    assert "'recentre'" in said(run)[0]


def test_few_slices_have_no_middle():
    model, progress = experiment(slices=2)
    with torch.no_grad():
        model.object.phase[:, 0] = 0
    assert advice.advise(model, advice.InitialProbe.of(model), progress) == []


def test_rates_that_are_too_high_are_named(run):
    rates = {"phase": 0.5}
    losses = [5.0, 4.0, 6.0, 8.0, 9.0, 11.0, 12.0]
    run[2].history.extend({"number": n + 1, "loss": v, "rates": rates} for n, v in enumerate(losses))
    assert "lower the rates" in said(run)[0]
    assert "phase" in said(run)[0]


def test_a_scale_that_object_and_probe_share_is_no_matter():
    model, progress = experiment(slices=1)
    model.object = objects.pixels(model.scan.canvas, kind="complex")
    begun = advice.InitialProbe.of(model)
    with torch.no_grad():
        model.probe.relative *= 2.0
        next(iter(model.object.parts()["object"])).mul_(0.5)
    assert advice.advise(model, begun, progress) == []


def test_rates_beyond_a_newton_step():
    model, _ = experiment(slices=1)
    rates = {"phase": 2.0, "probe": 0.4}
    progress = Progress(model, optimizers.gauss_newton(optimizers.groups(model.parts(), rates)))
    assert advice.rates_above_newton(progress) == "phase 2"
    (said,) = advice.advise(model, advice.InitialProbe.of(model), progress)
    assert "(phase 2)" in said
