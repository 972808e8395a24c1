"""Patterns to patches: sizes, what the network is told, what it must not depend on."""

import resource
import subprocess
import sys

import pytest
import torch

from phaseloom import spec
from phaseloom.errors import BadInput
from phaseloom.learning.layers import FiLM, PatternEmbedding, PatternIntake, PositionEncoding
from phaseloom.retrieval.networks import recovery, stitching
from phaseloom.retrieval.networks.end_to_end import EndToEnd
from phaseloom.retrieval.networks.recovery import StepDecoder


def tiny(**knobs):
    return recovery.small(**{"window": 4, "width": 16, "depth": 2, "heads": 2, "channels": 4} | knobs)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def beams(*shape: int, seed: int = 0) -> torch.Tensor:
    return some(*shape, seed=seed) / (shape[-1] * shape[-2])


def awake(net: torch.nn.Module) -> torch.nn.Module:
    """With layers that start at zero moved away from it."""
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, FiLM):
                part.write.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(1))
    return net


def parameters(builder) -> int:
    with torch.device("meta"):
        return sum(value.numel() for value in builder().parameters())


def test_the_small_net_has_as_many_parameters_as_it_says():
    assert parameters(recovery.small) == 3_906_802
    for patterns in (24, 32):
        assert 3.5e6 < parameters(lambda p=patterns: recovery.small(patterns=p)) < 5e6


def test_the_seed_has_the_parameters_of_its_parts():
    resnet, blocks = 21_278_400, 85_054_464
    before, places, norm = 512 * 768 + 768, 768 + 197 * 768, 2 * 768
    decoder = 768 * 512 + 512 + (512 * 256 * 16 + 256) + 512 + (256 * 128 * 16 + 128) + 256 + 128 * 441 + 1
    gain = 1
    assert parameters(recovery.seed) == resnet + before + places + blocks + norm + decoder + gain
    assert parameters(recovery.seed) == 109_953_218


def test_the_base_net_is_as_large_as_the_seed():
    assert parameters(recovery.base) == 113_625_378


def test_the_seed_draws_76_pixels_from_14_probes():
    with torch.device("meta"):
        net = recovery.seed()
        patch = net(torch.zeros(2, 14, 14, 256, 256), torch.zeros(2, 8), torch.zeros(2, 2))
    assert patch.shape == (2, 76, 76)


@pytest.mark.parametrize("patterns", [8, 24, 33])
@pytest.mark.parametrize("window", [2, 5])
def test_a_patch_reaches_five_pixels_beyond_its_probes(patterns, window):
    net = tiny(patterns=patterns, window=window)
    size = 5 * (window - 1) + 11
    patch = net(beams(2, window, window, patterns, patterns), torch.zeros(2, 8), torch.zeros(2, 2))
    assert patch.shape == (2, size, size)
    assert patch.dtype == torch.float32


def test_embedding_is_of_each_pattern_alone():
    net, patterns = tiny(), beams(2, 3, 5, 24, 24)
    tokens = net.embed(patterns)
    assert tokens.shape == (2, 3, 5, 16)
    alone = net.embed(patterns[1:, 2:, 4:])
    torch.testing.assert_close(alone[0, 0, 0], tokens[1, 2, 4])


def test_forward_is_embed_and_recover():
    net, patterns, optics, places = tiny(), beams(1, 4, 4, 24, 24), some(1, 8), some(1, 2)
    torch.testing.assert_close(
        net(patterns, optics, places), net.recover(net.embed(patterns), optics, places)
    )


def test_it_matters_where_the_window_lies():
    net, patterns = tiny(), beams(1, 4, 4, 24, 24).expand(3, -1, -1, -1, -1)
    places = torch.tensor([[0.0, 0.0], [18.0, 0.0], [0.0, 18.0]])
    here, below, beside = net(patterns, torch.zeros(3, 8), places)
    assert (here - below).abs().max() > 1e-3 * here.abs().max()
    assert (here - beside).abs().max() > 1e-3 * here.abs().max()
    assert (below - beside).abs().max() > 1e-3 * here.abs().max()


def test_coordinates_are_angstrom_of_each_token():
    """A window moved by a step tells its first token what the second was told before."""
    net = tiny(step=2.5)
    net.grid.table.data[:] = 0
    heard = []
    net.grid.places.register_forward_hook(lambda part, given, told: heard.append(told))
    for start in (0.0, 2.5):
        net.recover(some(1, 4, 4, 16), torch.zeros(1, 8), torch.tensor([[start, 0.0]]))
    first, second = (told.unflatten(1, (4, 4))[0] for told in heard)
    torch.testing.assert_close(first[1:], second[:-1])
    assert not torch.allclose(first[:, 1:], second[:, :-1])


def test_neighbouring_places_differ_and_far_ones_do_not_repeat():
    places = PositionEncoding(32, shortest=4.0, longest=400.0)(
        torch.arange(100.0)[:, None] * torch.tensor([2.0, 0])
    )
    distance = torch.cdist(places, places) + torch.eye(100)
    assert distance.min() > 0.01


def test_optics_change_the_patch_once_learned_and_not_before():
    patterns, places = beams(1, 4, 4, 24, 24), torch.zeros(1, 2)
    net = tiny()
    flat, bent = (net(patterns, optics, places) for optics in (torch.zeros(1, 8), torch.ones(1, 8)))
    torch.testing.assert_close(flat, bent)
    awake(net)
    flat, bent = (net(patterns, optics, places) for optics in (torch.zeros(1, 8), torch.ones(1, 8)))
    assert (flat - bent).abs().max() > 1e-3


def test_each_number_of_the_optics_can_be_heard():
    film = awake(FiLM(8))
    optics = torch.zeros(1, 8, requires_grad=True)
    film(torch.ones(1, 1, 8), optics).square().sum().backward()
    assert optics.grad.abs().min() > 0


def test_a_token_owns_the_pixels_around_its_probe():
    """Away from the edges, moving the tokens by one moves the patch by five pixels."""
    decoder, tokens = StepDecoder(6, 3), torch.zeros(1, 9, 9, 6)
    nothing = decoder(tokens)
    tokens[0, 3, 4] = 1
    patch = decoder(tokens) - nothing
    assert patch.shape == (1, 51, 51)
    moved = decoder(tokens.roll((1, -1), (1, 2))) - nothing
    torch.testing.assert_close(moved, patch.roll((5, -5), (1, 2)))
    y, x = (patch[0].abs().sum(axis).nonzero().flatten() for axis in (1, 0))
    assert (int(y.min() + y.max()), int(x.min() + x.max())) == (2 * (5 + 15), 2 * (5 + 20))


def test_intake_counts_in_amplitudes_of_an_even_beam():
    patterns = torch.zeros(1, 4, 4)
    patterns[0, 0, 0], patterns[0, 1, 1] = 1.0, -1e-3
    told = PatternIntake(4)(patterns)
    assert told[0, 0, 0] == 4.0
    assert told[0, 1, 1] == pytest.approx(0, abs=1e-5)


def test_calibrated_patterns_have_order_one_however_weak_they_are():
    """The first batch norm of the first design saw a variance of 7e-10."""
    intake, patterns = PatternIntake(16), beams(50, 16, 16) * torch.linspace(0, 1, 16) ** 6
    intake.calibrate(patterns)
    told = intake(patterns)
    assert told.mean(0).abs().max() < 1e-4
    assert 0.5 < told.std() < 1.5
    assert told.abs().max() < 10
    assert set(intake.state_dict()) == {"mean", "spread"}


def test_counts_are_refused_as_fractions():
    with pytest.raises(BadInput, match="fractions of the incident beam"):
        tiny().calibrate(torch.ones(3, 24, 24))


def test_patterns_of_another_size_are_refused_in_a_sentence():
    with pytest.raises(BadInput, match=r"patterns: \(23, 24\) pixels each, where .* takes \(24, 24\)"):
        tiny().embed(torch.zeros(1, 1, 1, 23, 24))


def test_a_window_of_another_size_is_refused_in_a_sentence():
    with pytest.raises(BadInput, match="takes 4 x 4"):
        tiny()(torch.zeros(1, 5, 5, 24, 24), torch.zeros(1, 8), torch.zeros(1, 2))


def test_heads_must_share_the_width():
    with pytest.raises(BadInput, match="choose a divisor"):
        tiny(heads=3)


@pytest.fixture
def normed() -> torch.nn.Module:
    layers = torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()
    return torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def test_frugal_embedding_gives_the_same_gradients_and_moves_means_once(normed):
    patterns, results = beams(6, 8, 8), []
    for frugal in (False, True):
        normed[1].reset_running_stats()
        normed.zero_grad()
        PatternEmbedding(PatternIntake(8), normed, frugal=frugal)(patterns).square().sum().backward()
        results.append([normed[0].weight.grad.clone(), normed[1].running_mean.clone()])
        assert normed[1].momentum == 0.1
    torch.testing.assert_close(*results)


def test_embedding_in_pieces_is_embedding_at_once(monkeypatch):
    net, patterns = tiny(), beams(1, 3, 3, 24, 24)
    whole = net.embed(patterns)
    monkeypatch.setattr("phaseloom.learning.layers.PIXELS_AT_ONCE", 2 * 24 * 24)
    with torch.no_grad():
        torch.testing.assert_close(net.embed(patterns), whole)


def test_a_net_learns_a_patch():
    net, patterns, optics = tiny(), beams(2, 4, 4, 24, 24), torch.zeros(2, 8)
    net.calibrate(patterns)
    truth, places = some(2, 26, 26, seed=3).cumsum(-1) / 26, torch.zeros(2, 2)
    steps = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        steps.zero_grad()
        loss = (net(patterns, optics, places) - truth).square().mean()
        loss.backward()
        steps.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    without = {name for name, value in net.named_parameters() if value.grad is None}
    assert not without


def test_nets_run_in_half_precision():
    net = EndToEnd(tiny(), stitching.overlap(), stride=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = net(beams(1, 6, 4, 24, 24), torch.zeros(1, 8))
    assert image.isfinite().all()
    assert image.dtype == torch.float32


def test_the_same_seed_draws_the_same_net_and_leaves_other_numbers_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = tiny(), tiny(), tiny(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one.grid.table, two.grid.table)
    assert not torch.equal(one.grid.table, other.grid.table)


def test_a_parameter_file_can_call_the_builders():
    room = "phaseloom.retrieval.networks.recovery"
    assert spec.names(room) == ["base", "linear", "seed", "small", "tiny"]
    call = spec.call(
        room, {"small": {"window": 4, "width": 16, "depth": 1, "heads": 2, "step": "3 A"}}, "net"
    )
    assert call().step == 3.0


def scan_net(**knobs) -> EndToEnd:
    return EndToEnd(awake(tiny()), stitching.overlap(), **{"stride": 3} | knobs).eval()


def test_sharing_embeddings_changes_nothing():
    """Windows cut from the embedded scan are the windows embedded."""
    net, patterns, optics = scan_net(), beams(2, 8, 6, 24, 24), some(2, 8)
    patches, places = net.patches(patterns, optics)
    for number, (row, col) in enumerate(stitching.list_windows(8, 6, 4, 3)):
        window = patterns[:, row : row + 4, col : col + 4]
        alone = net.recovery(window, optics, torch.tensor([[2.0 * row, 2.0 * col]]).expand(2, 2))
        torch.testing.assert_close(patches[:, number], alone, atol=1e-5, rtol=1e-5)
        assert places[:, number].tolist() == [[5.0 * row, 5.0 * col]] * 2


def test_each_pattern_of_a_scan_is_embedded_once():
    net, seen = scan_net(), []
    net.recovery.embedding.body.register_forward_hook(lambda part, given, told: seen.append(len(told)))
    net(beams(2, 8, 6, 24, 24), some(2, 8))
    assert sum(seen) == 2 * 8 * 6


def test_a_scan_has_the_image_of_its_probes():
    image = scan_net()(beams(1, 9, 4, 24, 24), torch.zeros(1, 8))
    assert image.shape == (1, 5 * 8 + 11, 5 * 3 + 11)
    assert image.isfinite().all()


def test_windows_recovered_some_at_a_time_are_the_same():
    patterns, optics = beams(2, 8, 6, 24, 24), some(2, 8)
    torch.testing.assert_close(scan_net(chunk=1)(patterns, optics), scan_net()(patterns, optics))


def test_a_scan_smaller_than_a_window_is_refused():
    with pytest.raises(BadInput, match="smaller than a window of 4 x 4"):
        scan_net()(torch.zeros(1, 3, 9, 24, 24), torch.zeros(1, 8))


SEED = """
import resource, time, torch
from phaseloom.retrieval.networks import recovery
torch.set_num_threads(1)
net = recovery.seed(checkpoint=True)
patterns = torch.rand(1, 14, 14, 256, 256) / 256**2
start = time.process_time()
patch = net(patterns, torch.zeros(1, 8), torch.zeros(1, 2))
patch.square().mean().backward()
assert patch.shape == (1, 76, 76) and all(value.grad.isfinite().all() for value in net.parameters())
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"{used:.2f} GiB, {time.process_time() - start:.0f} CPU-s")
"""


@pytest.mark.slow
@pytest.mark.hours
def test_the_seed_learns_from_a_whole_window_in_less_than_12_gigabytes():
    run = subprocess.run([sys.executable, "-c", SEED], capture_output=True, text=True, check=True)
    print(run.stdout)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20 < 12
