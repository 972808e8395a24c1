"""Diagonal Gauss-Newton steps with Nesterov's momentum.

Each parameter has a *rule* that turns a gradient into a Newton step, from a curvature that whoever knows
the model provides (`phaseloom.ptycho.curvature`). Steps then have no units: a rate is a share of the
Newton step, and one set of rates serves thin and thick objects, high and low dose, any pixel and batch.
Parameters without a rule are moved by Adam's rule, their rates being steps in natural sizes.

The rule is that of Nesterov's accelerated gradient as Sutskever et al. write it (2013, ICML 28, 1139):
``v <- m v + d``, ``x <- x + d + m v`` with the Newton step ``d``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput
from phaseloom.physics.patches import clear_boxes, merge_boxes

__all__ = ["GaussNewton", "Rule", "diagonal"]

Where = tuple[slice, slice]
WHOLE_PLANE: Where = (slice(None), slice(None))

MIN_BRAKE = 1 / 64
"""Share of the rates below which shorter steps do not help."""


@runtime_checkable
class Rule(Protocol):
    """How a parameter moves: ``(value, gradient, size, rate, where) -> step`` that is taken from it.

    The gradient is that of a mean over ``size`` patterns; of a large parameter, value and gradient are those
    of the part ``where`` (rows, columns).
    """

    @property
    def momentum(self) -> bool:
        """Whether steps are accelerated."""
        ...

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Where, /) -> Tensor:
        """The step."""
        ...


class StepTogether(Protocol):
    """Steps after each of many batches, as `phaseloom.fitting.updates.step_on_each` makes them."""

    def __call__(
        self, objective: Any, batches: Sequence[Any], number: int, only: Sequence[str] | None = None, /
    ) -> Sequence[Any] | None:
        """What each batch found (`phaseloom.fitting.updates.BatchOutcome`); ``None``: nothing was done."""


def diagonal(bend: Tensor | float, /, *, momentum: bool = True) -> Rule:
    """Steps of a parameter of one's own: its gradient over the curvature of the loss along each number.

    A rate of 1 is then a whole Newton step. Where the curvature can only be bounded, take the bound: steps
    are shorter, and nothing diverges. Of complex numbers it is that along the real axis.

    Args:
        bend: second derivatives of the mean loss over the patterns, above zero; one number, or of a shape
            that broadcasts against the parameter.
        momentum: whether steps are accelerated.

    Raises:
        BadInput: a curvature that is not a finite number above zero.

    Example:
        >>> value = nn.Parameter(torch.zeros(2))
        >>> groups = [{"params": [value], "name": "value", "lr": 1.0}]
        >>> optimizer = GaussNewton(groups)
        >>> optimizer.rules = {value: diagonal(torch.tensor([2.0, 4.0]))}
        >>> (value[0] ** 2 + 2 * value[1] ** 2 - 2 * value[0] - 8 * value[1]).backward()
        >>> optimizer.step()
        >>> [round(number, 3) for number in value.tolist()]  # the minimum 1, 2, and 0.9 of the step again
        [1.9, 3.8]
    """
    every = torch.as_tensor(bend)
    if every.is_complex() or not bool((every > 0).all() and every.isfinite().all()):
        worst = float(every.abs().min()) if every.is_complex() else float(every.min())
        raise BadInput(
            "newton.diagonal: bend", worst, "is not a curvature: make all of them finite and above zero"
        )
    return _Diagonal(every.detach(), momentum)


@dataclass
class _Diagonal:
    """See `diagonal`."""

    bend: Tensor
    momentum: bool

    def __call__(self, value: Tensor, gradient: Tensor, size: int, rate: float, where: Where, /) -> Tensor:
        self.bend = self.bend.to(value.device)
        return rate * gradient / (self.bend[(..., *where)] if self.bend.ndim > 1 else self.bend)


class GaussNewton(torch.optim.Optimizer):
    """Preconditioned steps with momentum; see the module.

    Attributes:
        rules: of the parameters that have one; set by whoever knows the model, before every epoch.
        momentum: share of the last step that is made again; ``None``: what the rules ask for.
        pull: of amplitudes towards one, for the rules to heed.
        position_prior: whether positions move only as far as counts allow, for the rules to heed.
        early_floor: counts added to model and counts while the loss is far above the noise, likewise.
        step_together: does many batches in one call, where whoever knows the model has such a thing.
    """

    def __init__(
        self,
        params: Any,
        *,
        momentum: float | None = None,
        pull: float = 0.0,
        position_prior: bool = True,
        early_floor: float = 0.0,
    ):
        super().__init__(params, {"size": 1, "brake": 1.0})
        self.momentum = momentum
        self.pull = pull
        self.position_prior = position_prior
        self.early_floor = early_floor
        self.default_momentum = 0.9
        self.rules: Mapping[nn.Parameter, Rule] = {}
        self.step_together: StepTogether | None = None

    def set_rules(self, rules: Mapping[nn.Parameter, Rule], momentum: float) -> None:
        """Take over rules, and the momentum that they ask for."""
        self.rules = rules
        self.default_momentum = momentum

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                rule = self.rules.get(parameter)
                if rule is None:
                    self._adam(parameter, group["lr"])
                else:
                    self._newton(parameter, rule, group["size"], self.limit_rate(group, rule))

    def limit_rate(self, group: Mapping[str, Any], rule: Rule) -> float:
        """Rate of a group, of accelerated steps no longer than the brake leaves them."""
        most = group.get("base", group["lr"]) * group["brake"] if rule.momentum else group["lr"]
        return min(group["lr"], most)

    def get_velocity(self, parameter: nn.Parameter) -> Tensor:
        """The last step of a parameter, zero before the first."""
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        return state["velocity"]

    @property
    def momentum_in_use(self) -> float:
        """Share of the last step that is made again, as asked for or as the rules have it."""
        return self.default_momentum if self.momentum is None else self.momentum

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget gradients; of a parameter that knows where it was touched, only there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                touched = getattr(parameter, "touched", None)
                if touched is None:
                    parameter.grad = None
                    continue
                if parameter.grad is not None:
                    clear_boxes(parameter.grad, touched)
                touched.clear()

    def halve_steps(self, only: Collection[str] | None = None, *, least: float = MIN_BRAKE) -> bool:
        """Halve the longest accelerated steps from now on, drop momentum; False when they are short already.

        Args:
            only: the groups that are meant, by name; default: all.
            least: share of the rates that is left to them.
        """
        groups = [group for group in self.param_groups if only is None or group["name"] in only]
        if not groups or groups[0]["brake"] < 2 * least:
            return False
        for group in groups:
            group["brake"] /= 2
            for parameter in group["params"]:
                for value in self.state[parameter].values():
                    value.zero_()
        return True

    def _newton(self, parameter: nn.Parameter, rule: Rule, size: int, rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        again = self.momentum_in_use
        for where in _list_touched_parts(parameter):
            part = parameter[(..., *where)] if parameter.ndim > 1 else parameter
            slope = gradient[(..., *where)] if parameter.ndim > 1 else gradient
            step = rule(part, slope, size, rate, where)
            if rule.momentum:
                whole = self.get_velocity(parameter)
                velocity = whole[(..., *where)] if parameter.ndim > 1 else whole
                velocity.mul_(again).sub_(step)
                part.sub_(step).add_(velocity, alpha=again)
            else:
                part.sub_(step)

    def _adam(self, parameter: nn.Parameter, rate: float) -> None:
        """Adam's rule (Kingma & Ba 2014, arXiv 1412.6980) for what has no curvature."""
        gradient = _real(parameter.grad)
        state = self.state[parameter]
        if "mean" not in state:
            state["mean"] = torch.zeros_like(gradient)
            state["square"] = torch.zeros_like(gradient)
            state["steps"] = torch.zeros(())
        state["steps"] = state["steps"].cpu() + 1  # loading a state moves it to the device
        # betas 0.9 and 0.99, see `phaseloom.fitting.optimizers.ADAM_BETAS`
        state["mean"].lerp_(gradient, 0.1)
        state["square"].lerp_(gradient.square(), 0.01)
        count = float(state["steps"])
        mean = state["mean"] / (1 - 0.9**count)
        square = state["square"] / (1 - 0.99**count)
        _real(parameter).sub_(mean / (square.sqrt() + 1e-8), alpha=rate)


def _real(value: Tensor | None) -> Tensor:
    """Complex numbers as two real ones."""
    assert value is not None
    return torch.view_as_real(value) if value.is_complex() else value


def _list_touched_parts(parameter: nn.Parameter) -> list[Where]:
    """Disjoint parts of a parameter outside which its gradient is zero."""
    touched = getattr(parameter, "touched", None)
    if touched is None:
        return [WHOLE_PLANE]
    shape = (parameter.shape[-2], parameter.shape[-1])
    return [
        (slice(top, bottom), slice(left, right)) for top, bottom, left, right in merge_boxes(touched, shape)
    ]
