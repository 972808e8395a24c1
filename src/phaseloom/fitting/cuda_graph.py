"""A batch and its way back as one CUDA graph, replayed with the next batch's index.

A graph spares the host the several hundred launches of a batch, which is what small batches wait for. The
step of the optimiser stays outside: its rates are numbers that a graph would freeze.
`phaseloom.fitting.updates` replays what an objective lets it record; experiments that are plain enough have
kernels of their own (`phaseloom.physics.gpu`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GraphReplay", "Objective", "supports_graphs"]

Objective = Callable[[Any], Mapping[str, Tensor]]

WARM_UP_RUNS = 3
"""Batches that are worked on plainly first, beside the main stream, as the recording of a graph asks for."""

log = logging.getLogger(__name__)


class GraphReplay:
    """Gradients of an objective, by replay for batches of one size.

    Calling it with a batch of indices gives the objective's terms and leaves the gradient of their sum in the
    parameters that want one, as the objective and ``backward`` would. Batches of another size, and all
    batches on a CPU or where no graph could be recorded, go the plain way.

    A graph holds on to the memory of all that was computed before it and did not change while it was
    recorded (frozen parts, kernels of free flight, tables): make another when any of that has changed, as
    after projections or a change of what moves. Patterns must lie on the device, and indices should.

    Attributes:
        size: of the batches that are replayed.
        graph: ``None`` until it is recorded.
        broken: no graph could be recorded.
    """

    def __init__(self, objective: Objective, parameters: Sequence[nn.Parameter], *, size: int):
        self.objective = objective
        self.size = size
        self.parameters = [one for one in parameters if one.requires_grad]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.broken = False
        self.seen = 0
        self.index: Tensor | None = None
        self.moved: list[nn.Parameter] = []
        self.terms: dict[str, Tensor] = {}
        self.gradients: list[tuple[nn.Parameter, Tensor, list[object] | None]] = []

    def __call__(self, index: Tensor, /) -> dict[str, Tensor]:
        """Terms of a batch, whose gradients stand in the parameters."""
        device = self.parameters[0].device
        if self.broken or len(index) != self.size or not supports_graphs(device):
            return self._run_eagerly(index)
        if self.seen < WARM_UP_RUNS:
            self.seen += 1
            return self._warm_up(index)
        if self.graph is None and not self._record(index):
            return self._run_eagerly(index)
        return self._replay(index)

    def _run_eagerly(self, index: Tensor) -> dict[str, Tensor]:
        """The objective and its way back; gradients are this batch's alone."""
        self._clear_gradients()
        return self._compute_gradients(index)

    def _compute_gradients(self, index: Tensor) -> dict[str, Tensor]:
        terms = self.objective(index)
        torch.stack(list(terms.values())).sum().backward()
        return {name: value.detach() for name, value in terms.items()}

    def _warm_up(self, index: Tensor) -> dict[str, Tensor]:
        """The same on a stream of its own."""
        stream = torch.cuda.Stream()
        now = torch.cuda.current_stream()
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            terms = self._run_eagerly(index)
        now.wait_stream(stream)
        self.moved = [one for one in self.parameters if one.grad is not None]
        return terms

    def _record(self, index: Tensor) -> bool:
        """Record a graph; a failure is logged once and leaves no gradient."""
        self.index = index.to(self.parameters[0].device, copy=True)
        self._clear_gradients()
        for one in self.moved:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for one in self.moved:
                    assert one.grad is not None
                    one.grad.zero_()
                self.terms = self._compute_gradients(self.index)
        except RuntimeError as problem:
            log.info("batches are not replayed: no graph could be recorded (%s)", _first_line(problem))
            with suppress(AttributeError):
                self.objective.recordable = False  # pyright: ignore[reportFunctionMemberAccess]
            self.broken = True
            for one in self.parameters:
                one.grad = None
                _set_touched(one, [])
            return False
        self.graph = graph
        self.gradients = [(one, one.grad, _copy_touched(one)) for one in self.moved if one.grad is not None]
        return True

    def _replay(self, index: Tensor) -> dict[str, Tensor]:
        """Replay with another index; what the graph wrote is where it was."""
        assert self.graph is not None
        assert self.index is not None
        self.index.copy_(index, non_blocking=True)
        for one in self.parameters:
            one.grad = None
        self.graph.replay()
        for one, gradient, touched in self.gradients:
            one.grad = gradient
            _set_touched(one, touched or [])
        return {name: value.clone() for name, value in self.terms.items()}

    def _clear_gradients(self) -> None:
        """Gradients of the batch before; of a parameter that knows where it was touched they are cleared."""
        for one in self.parameters:
            if _copy_touched(one) is None:
                one.grad = None
            elif one.grad is not None:
                one.grad.zero_()
            _set_touched(one, [])


def supports_graphs(device: torch.device, /) -> bool:
    """Whether graphs can be recorded on a device."""
    return device.type == "cuda"


def _copy_touched(parameter: nn.Parameter) -> list[object] | None:
    """Where a parameter's gradient is, if it keeps a list of that (`phaseloom.physics.patches`)."""
    touched = getattr(parameter, "touched", None)
    return None if touched is None else list(touched)


def _set_touched(parameter: nn.Parameter, touched: list[object]) -> None:
    if (known := getattr(parameter, "touched", None)) is not None:
        known[:] = touched


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
