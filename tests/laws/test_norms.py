"""Batch norms of several processes are those of one: values, gradients and running means."""

import threading
from copy import deepcopy

import pytest
import torch
from torch import nn

from phaseloom.errors import BadInput
from phaseloom.fitting.distributed import Team
from phaseloom.fitting.sync_batchnorm import SharedNorm, convert_sync_batchnorm, count_in_statistics
from phaseloom.learning.layers import PatternEmbedding, PatternIntake


class Around:
    """Sums over threads in place of processes."""

    def __init__(self, count: int):
        self.barrier, self.count, self.parts = threading.Barrier(count, timeout=20), count, {}

    def all_reduce(self, numbers: torch.Tensor) -> None:
        self.parts[threading.get_ident()] = numbers.clone()
        self.barrier.wait()
        total = sum(self.parts.values())
        self.barrier.wait()
        numbers.copy_(total)

    def run(self, work) -> list:
        out: list = [None] * self.count
        threads = [
            threading.Thread(target=lambda rank=rank: out.__setitem__(rank, work(rank)))
            for rank in range(self.count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return out


def whole_and_shared(net, batch, parts, monkeypatch, steps=2):
    """Outputs, gradients and buffers of a batch in one process, and in as many as it has parts."""
    around = Around(len(parts))
    monkeypatch.setattr(torch.distributed, "all_reduce", around.all_reduce)
    copies = [convert_sync_batchnorm(deepcopy(net), rank, len(parts)) for rank in range(len(parts))]

    def work(rank: int) -> torch.Tensor:
        own, idle = (batch[parts[rank]], False) if len(parts[rank]) else (7 * batch[:1], True)
        for _ in range(steps):
            with count_in_statistics(not idle):
                out = copies[rank](own)
            share = len(parts[rank]) / len(batch)
            (share * out.sin().mean()).backward()
        return out.detach()

    outs = around.run(work)
    for _ in range(steps):
        out = net(batch)
        out.sin().mean().backward()
    return out.detach(), outs, copies


@pytest.mark.parametrize(
    "parts", [([0, 1, 2, 3, 4],), ([0, 3], [1, 2, 4]), ([0, 1, 2, 3, 4], []), ([2], [0], [1, 3, 4])]
)
def test_a_batch_is_normalised_whole(parts, monkeypatch):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)
    )
    batch = 100 + torch.randn(5, 1, 8, 8)
    whole, outs, copies = whole_and_shared(net, batch, parts, monkeypatch)
    for part, out in zip(parts, outs, strict=True):
        if part:
            torch.testing.assert_close(out, whole[part], rtol=2e-4, atol=2e-4)
    for name, parameter in net.named_parameters():
        total = sum(dict(copy.named_parameters())[name].grad for copy in copies)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-3, atol=1e-5, msg=name)
    for name, buffer in net.named_buffers():
        for copy in copies:
            torch.testing.assert_close(dict(copy.named_buffers())[name], buffer, rtol=1e-4, atol=1e-5)
    for copy in (net, *copies):
        copy.eval()
    torch.testing.assert_close(copies[0](batch), net(batch), rtol=2e-4, atol=2e-4)
    assert [*copies[0].state_dict()] == [*net.state_dict()]


def test_only_batch_norms_are_replaced_and_one_process_keeps_them():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2))
    assert Team().convert_sync_batchnorm(net) is net
    assert isinstance(net[1], nn.BatchNorm1d)
    kinds = [type(part) for part in Team(0, 2).convert_sync_batchnorm(net)]
    assert kinds == [nn.Linear, SharedNorm, nn.GroupNorm]
    assert isinstance(Team(0, 2).convert_sync_batchnorm(nn.BatchNorm2d(3)), SharedNorm)


def test_patterns_embedded_some_at_a_time_are_refused():
    body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    Team(0, 2).convert_sync_batchnorm(PatternEmbedding(PatternIntake(8), deepcopy(body), frugal=False))
    said = r"2 processes: embedding: normalises over some patterns at a time.*checkpoint: false"
    with pytest.raises(BadInput, match=said):
        Team(0, 2).convert_sync_batchnorm(
            nn.ModuleDict({"embedding": PatternEmbedding(PatternIntake(8), body, frugal=True)})
        )
