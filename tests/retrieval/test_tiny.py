"""The small network: it begins as the linear estimate, and leaves it as it learns of optics and dose."""

import pytest
import torch
from torch import Tensor

from phaseloom.errors import BadInput
from phaseloom.learning import weight_files as pretrained
from phaseloom.retrieval.networks.linear import NOISELESS_DOSE_NUMBER, LinearRecovery, linear
from phaseloom.retrieval.networks.tiny import TinyRecovery, tiny


def random_patterns(*shape: int, seed: int = 0) -> Tensor:
    patterns = torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
    return 0.9 * patterns / patterns.sum((-2, -1), keepdim=True)


def estimate(doses: tuple[float, ...]) -> LinearRecovery:
    net = linear(patterns=6, components=4, doses=doses)
    net.components.calibrate(random_patterns(40, 6, 6, seed=1))
    net.weight.data = torch.randn(net.weight.shape, generator=torch.Generator().manual_seed(2))
    return net


def begun(doses: tuple[float, ...] = (NOISELESS_DOSE_NUMBER,)) -> tuple[LinearRecovery, TinyRecovery]:
    first, net = estimate(doses), tiny(patterns=6, components=4, width=8, depth=2)
    net.begin(first)
    return first, net


@pytest.mark.parametrize("scan", [(2, 2), (3, 7), (9, 5)])
def test_it_begins_as_the_linear_estimate_without_noise(scan):
    first, net = begun((0.0, NOISELESS_DOSE_NUMBER))
    patterns = random_patterns(2, *scan, 6, 6)
    optics = torch.randn(2, 8)
    found = net(patterns, optics)
    optics[:, -1] = NOISELESS_DOSE_NUMBER
    torch.testing.assert_close(found, first(patterns, optics), atol=1e-5, rtol=1e-5)
    assert found.shape == (2, 5 * (scan[0] - 1) + 11, 5 * (scan[1] - 1) + 11)
    assert found.std() > 0.1


def test_optics_and_dose_count_once_it_has_learned():
    _, net = begun()
    patterns, wanted = random_patterns(2, 4, 5, 6, 6), torch.randn(2, 26, 31)
    optics = torch.randn(2, 8, generator=torch.Generator().manual_seed(5))
    step = torch.optim.Adam(net.parameters(), 1e-2)

    def told(number: int) -> float:
        other = optics.clone()
        other[:, number] += 0.5
        with torch.no_grad():
            return float((net(patterns, optics) - net(patterns, other)).abs().max())

    assert max(told(number) for number in range(8)) == 0
    for _ in range(3):  # the last layer and what the optics say are zero at first: each step moves one
        step.zero_grad()
        (net(patterns, optics) - wanted).square().mean().backward()
        step.step()
    assert min(told(number) for number in range(8)) > 1e-6


def test_a_dose_is_told_after_the_last_layer_has_moved_once():
    _, net = begun()
    patterns, optics = random_patterns(1, 4, 4, 6, 6), torch.ones(1, 8)
    loss = (net(patterns, optics) - torch.randn(1, 26, 26)).square().mean()
    loss.backward()
    assert net.leave.weight.grad is not None
    assert net.leave.weight.grad.abs().max() > 0
    with torch.no_grad():
        net.leave.weight -= 0.01 * net.leave.weight.grad
    net.zero_grad()
    (net(patterns, optics) - torch.randn(1, 26, 26)).square().mean().backward()
    for block in net.trunk:
        assert block.read.weight.grad.abs().min(0).values.max() > 0


def test_a_scan_may_lie_anywhere():
    _, net = begun()
    patterns, optics = random_patterns(1, 3, 4, 6, 6), torch.ones(1, 8)
    torch.testing.assert_close(net(patterns, optics, torch.full((1, 2), 50.0)), net(patterns, optics))


def test_components_that_do_not_match_the_estimate_are_refused():
    with pytest.raises((BadInput, RuntimeError), match=r"basis|components"):
        tiny(patterns=6, components=5, width=4, depth=1).begin(estimate((NOISELESS_DOSE_NUMBER,)))


def test_a_file_keeps_every_bit(tmp_path):
    _, net = begun()
    again = pretrained.load_network(
        pretrained.save_network(net, tmp_path / "net.safetensors", {"step": "2 A"})
    )
    patterns, optics = random_patterns(1, 3, 4, 6, 6), torch.ones(1, 8)
    assert torch.equal(again(patterns, optics), net.eval()(patterns, optics))
    assert again.recipe == net.recipe
    assert isinstance(again, TinyRecovery)


def test_the_first_weights_follow_from_the_seed():
    one, same, other = (tiny(patterns=6, components=4, width=8, depth=1, seed=n) for n in (1, 1, 2))
    assert torch.equal(one.enter.weight, same.enter.weight)
    assert not torch.equal(one.enter.weight, other.enter.weight)
