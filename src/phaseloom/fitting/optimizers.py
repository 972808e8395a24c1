"""Optimisers over named parts, each part with its own rate and its own first and last epoch.

All of PyTorch's that can move an object, a probe and positions at once are here; real and imaginary parts
of complex parameters are moved as two real numbers. Left out: ``SparseAdam`` needs sparse gradients, which
a wave that is Fourier transformed does not have, and refuses complex parameters; ``Muon`` takes matrices
only, and an object has slices.

``decay`` pulls parameters towards zero in every step. For a complex object that is darkness, not vacuum:
leave it at 0 unless the object is a phase.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput, nearest
from phaseloom.fitting.newton import GaussNewton

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "gauss_newton",
    "lbfgs",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
]

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Rate:
    """How fast a part moves, between which epochs (counted from 1, both included), and in what shape.

    A part without a ``shape`` follows that of the fit; its own runs from ``start`` to ``stop``.
    """

    rate: float
    start: int = 1
    stop: int | None = None
    shape: Callable[..., float] | None = None

    def active(self, epoch: int) -> bool:
        """Whether the part moves in an epoch."""
        return epoch >= self.start and (self.stop is None or epoch <= self.stop)


def groups(parts: Mapping[str, Sequence[nn.Parameter]], rates: Mapping[str, Rate | float], /) -> Groups:
    """Parameter groups of the parts that move; a part without a rate, or with rate 0, is frozen.

    Raises:
        BadInput: a rate for a part that does not exist, or one that is negative or not a number; rates that
            freeze every part. Nothing is frozen then.
    """
    for name, rate in rates.items():
        value = rate.rate if isinstance(rate, Rate) else rate
        if name not in parts:
            raise BadInput("rates", name, f"is no part of the model: {nearest(name, parts)}")
        if not (0 <= value < float("inf")):
            raise BadInput(f"rates.{name}", value, "must be a finite number from zero up")
    if not any(rate.rate if isinstance(rate, Rate) else rate for rate in rates.values()):
        raise BadInput("rates", None, "freeze every part: give one of them a rate above zero")
    out = []
    for name, parameters in parts.items():
        given = rates.get(name, 0.0)
        rate = given if isinstance(given, Rate) else Rate(float(given))
        if rate.rate == 0:
            for parameter in parameters:
                parameter.requires_grad_(False)
            continue
        extra = {"name": name, "base": rate.rate, "start": rate.start, "stop": rate.stop, "shape": rate.shape}
        out.append({"params": list(parameters), "lr": rate.rate, **extra})
    return out


def adam(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    memory: float = 0.99,
    floor: float = 1e-8,
    decay: float = 0.0,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam (Kingma & Ba 2014, arXiv 1412.6980): steps of about the rate, whatever the gradient's size.

    Args:
        moving: see `groups`.
        momentum: beta 1.
        memory: beta 2.
        floor: epsilon.
        decay: of the parameters, added to the gradient.
        amsgrad: divide by the largest mean square so far (Reddi et al. 2018, arXiv 1904.09237).
    """
    betas = (momentum, memory)
    return torch.optim.Adam(moving, betas=betas, eps=floor, weight_decay=decay, amsgrad=amsgrad)


def adamw(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    memory: float = 0.99,
    floor: float = 1e-8,
    decay: float = 0.01,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """Adam whose decay acts on the parameters themselves (Loshchilov & Hutter 2017, arXiv 1711.05101)."""
    betas = (momentum, memory)
    return torch.optim.AdamW(moving, betas=betas, eps=floor, weight_decay=decay, amsgrad=amsgrad)


def nadam(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    memory: float = 0.99,
    floor: float = 1e-8,
    decay: float = 0.0,
    fading: float = 0.004,
    decoupled: bool = False,
) -> torch.optim.Optimizer:
    """Adam with Nesterov's look ahead (Dozat 2016).

    Args:
        moving: see `groups`.
        momentum: beta 1.
        memory: beta 2.
        floor: epsilon.
        decay: of the parameters.
        fading: how fast momentum rises to its full value.
        decoupled: decay as in `adamw`.
    """
    return torch.optim.NAdam(
        moving,
        betas=(momentum, memory),
        eps=floor,
        weight_decay=decay,
        momentum_decay=fading,
        decoupled_weight_decay=decoupled,
    )


def radam(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    memory: float = 0.99,
    floor: float = 1e-8,
    decay: float = 0.0,
    decoupled: bool = False,
) -> torch.optim.Optimizer:
    """Adam that takes plain steps until its mean square is known (Liu et al. 2019, arXiv 1908.03265)."""
    betas = (momentum, memory)
    return torch.optim.RAdam(
        moving, betas=betas, eps=floor, weight_decay=decay, decoupled_weight_decay=decoupled
    )


def adamax(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    memory: float = 0.99,
    floor: float = 1e-8,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam with the largest gradient in place of the mean square (arXiv 1412.6980, section 7)."""
    return torch.optim.Adamax(moving, betas=(momentum, memory), eps=floor, weight_decay=decay)


def adadelta(
    moving: Groups, /, *, memory: float = 0.9, floor: float = 1e-6, decay: float = 0.0
) -> torch.optim.Optimizer:
    """Steps of the size of those before (Zeiler 2012, arXiv 1212.5701); rates are factors, 1 being usual.

    Args:
        moving: see `groups`.
        memory: of both running means.
        floor: epsilon, which sets the size of the first steps: about its root.
        decay: of the parameters, added to the gradient.
    """
    return torch.optim.Adadelta(moving, rho=memory, eps=floor, weight_decay=decay)


def adagrad(
    moving: Groups,
    /,
    *,
    fading: float = 0.0,
    initial: float = 0.0,
    floor: float = 1e-10,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Steps that shrink with the sum of squared gradients so far (Duchi et al. 2011).

    Args:
        moving: see `groups`.
        fading: the rate is divided by 1 + this times the number of steps.
        initial: value that the sums start from.
        floor: epsilon.
        decay: of the parameters, added to the gradient.
    """
    return torch.optim.Adagrad(
        moving, lr_decay=fading, initial_accumulator_value=initial, eps=floor, weight_decay=decay
    )


def rmsprop(
    moving: Groups,
    /,
    *,
    memory: float = 0.99,
    momentum: float = 0.0,
    centered: bool = False,
    floor: float = 1e-8,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradients over their running root mean square (Hinton 2012, lecture 6).

    Args:
        moving: see `groups`.
        memory: of the mean square.
        momentum: of the steps.
        centered: divide by the spread about the mean gradient instead.
        floor: epsilon.
        decay: of the parameters, added to the gradient.
    """
    return torch.optim.RMSprop(
        moving, alpha=memory, momentum=momentum, centered=centered, eps=floor, weight_decay=decay
    )


def rprop(
    moving: Groups,
    /,
    *,
    factors: tuple[float, float] = (0.5, 1.2),
    steps: tuple[float, float] = (1e-6, 50.0),
) -> torch.optim.Optimizer:
    """Signs of gradients only (Riedmiller & Braun 1993): for batches that hold the whole scan.

    The rate is the first step; each number then has a step of its own, which shapes do not touch.

    Args:
        moving: see `groups`.
        factors: on a step when its gradient changes sign, and when it keeps it.
        steps: smallest and largest.
    """
    return torch.optim.Rprop(moving, etas=factors, step_sizes=steps)


def asgd(
    moving: Groups,
    /,
    *,
    fading: float = 1e-4,
    power: float = 0.75,
    averaged: float = 1e6,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent whose rate falls as a power of the number of steps (Polyak & Juditsky 1992).

    The parameters are those of the last step; their mean is kept in the optimiser's state (``ax``).

    Args:
        moving: see `groups`.
        fading: how soon the rate falls; it also pulls parameters to zero by this share of each step.
        power: exponent of the fall.
        averaged: number of the step after which means are taken.
        decay: of the parameters, added to the gradient.
    """
    return torch.optim.ASGD(moving, lambd=fading, alpha=power, t0=averaged, weight_decay=decay)


def adafactor(
    moving: Groups,
    /,
    *,
    memory: float = 0.8,
    floor: float = 1e-3,
    longest: float = 1.0,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Adam with mean squares of rows and columns only, and no momentum (arXiv 1804.04235).

    Its state is nearly nothing beside that of `adam`. Rates are relative to the root mean square of a
    parameter, and fall as one over the root of the number of steps.

    Args:
        moving: see `groups`.
        memory: the mean squares remember more as this power of the number of steps.
        floor: least root mean square of a parameter: how fast those that start at zero can move.
        longest: root mean square above which a step is shortened, in units of the rate.
        decay: of the parameters themselves.
    """
    eps = (None, floor)
    return _Componentwise(moving, beta2_decay=-memory, eps=eps, d=longest, weight_decay=decay)


def sgd(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    damping: float = 0.0,
    decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum; rates are in units of the parameters squared.

    Args:
        moving: see `groups`.
        momentum: share of the last step that is kept.
        nesterov: look ahead; only without damping.
        damping: share of the gradient that momentum leaves out.
        decay: of the parameters, added to the gradient.
    """
    ahead = nesterov and momentum > 0 and damping == 0
    return torch.optim.SGD(
        moving, lr=1.0, momentum=momentum, dampening=damping, weight_decay=decay, nesterov=ahead
    )


def gauss_newton(
    moving: Groups, /, *, momentum: float | None = None, pull: float = 0.1
) -> torch.optim.Optimizer:
    """Diagonal Gauss-Newton steps with Nesterov's momentum: the default; rates are shares of a Newton step.

    Args:
        moving: see `groups`.
        momentum: share of the last step that is made again; default: 0.9, and 0.95 for several slices.
        pull: of the amplitudes of several slices towards one, relative to what the data say; 0: none.
    """
    if not (0 <= (momentum or 0) < 1 and 0 <= pull < 10):
        raise BadInput(
            "optimizer: gauss_newton", f"momentum {momentum}, pull {pull}", "must be 0 to 1, and 0 to 10"
        )
    return GaussNewton(moving, momentum=momentum, pull=pull)


def lbfgs(
    moving: Groups, /, *, history: int = 10, inner: int = 4, search: bool = True
) -> torch.optim.Optimizer:
    """L-BFGS over all patterns at once, with a strong-Wolfe line search.

    An epoch takes up to ``inner`` steps and ``1.25 inner`` passes over the data (`Epoch.passes`
    counts them). Parts move together: their rates say only whether they move.

    Raises:
        BadInput: a part that is to start or stop at an epoch of its own, or to follow its own shape.

    Args:
        moving: see `groups`.
        history: pairs of vectors kept.
        inner: steps per epoch.
        search: line search; else full steps.
    """
    if history < 1 or inner < 1:
        raise BadInput("optimizer: lbfgs", f"history {history}, inner {inner}", "must both be at least 1")
    for group in moving:
        if group["start"] > 1 or group["stop"] is not None or group.get("shape") is not None:
            fix = "cannot start, stop or follow a shape by itself with lbfgs: freeze it, or run adam first"
            raise BadInput("rates", group["name"], fix)
    together = [parameter for group in moving for parameter in group["params"]]
    names = "+".join(group["name"] for group in moving)
    one = {"params": together, "name": names, "base": 1.0, "start": 1, "stop": None, "shape": None}
    line = "strong_wolfe" if search else None
    return torch.optim.LBFGS([one], lr=1.0, max_iter=inner, history_size=history, line_search_fn=line)  # type: ignore


class _Componentwise(torch.optim.Adafactor):
    """Adafactor that moves the real and imaginary parts of complex parameters as two real ones."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """For the time of a step, real views stand in for complex parameters, in groups and in state."""
        whole = [list(group["params"]) for group in self.param_groups]
        views = {p: _as_real(p) for group in whole for p in group if p.is_complex()}
        for group, parameters in zip(self.param_groups, whole, strict=True):
            group["params"] = [views.get(p, p) for p in parameters]
        self._rename({p: view for p, view in views.items() if p in self.state})
        try:
            return super().step(closure)
        finally:
            for group, parameters in zip(self.param_groups, whole, strict=True):
                group["params"] = parameters
            self._rename({view: p for p, view in views.items() if view in self.state})

    def _rename(self, names: Mapping[Tensor, Tensor]) -> None:
        for old, new in names.items():
            self.state[new] = self.state.pop(old)


def _as_real(parameter: Tensor) -> Tensor:
    """The same numbers as ``(part, ...)``, with the same gradient."""
    view = torch.view_as_real(parameter.detach()).movedim(-1, 0)
    if parameter.grad is not None:
        view.grad = torch.view_as_real(parameter.grad).movedim(-1, 0)
    return view
