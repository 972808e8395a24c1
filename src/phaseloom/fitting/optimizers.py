"""Optimisers over named parts, each part with its own rate and its own first and last epoch.

All of PyTorch's that can move an object, a probe and positions at once are here; real and imaginary parts
of complex parameters are moved as two real numbers. Left out: ``SparseAdam`` needs sparse gradients, which
a wave that is Fourier transformed does not have, and refuses complex parameters; ``Muon`` takes matrices
only, and an object has slices.

``weight_decay`` pulls parameters towards zero in every step. For a complex object that is darkness, not
vacuum: leave it at 0 unless the object is a phase.
"""

import inspect
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from phaseloom.errors import BadInput, nearest
from phaseloom.fitting.newton import GaussNewton
from phaseloom.renames import renamed_knobs

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

    def is_active(self, epoch: int) -> bool:
        """Whether the part moves in an epoch."""
        return epoch >= self.start and (self.stop is None or epoch <= self.stop)


_COMPILE_FILE = inspect.getsourcefile(torch._disable_dynamo)
"""Where PyTorch's wrapper of functions comes from that no compiler may look into."""


def _leave_out_compiler() -> None:
    """Have PyTorch's optimisers work without ``torch._dynamo``, whose import takes seconds.

    They import it on the first call of some methods, to hide these from ``torch.compile``, and keep what they
    got beside the method. Nothing is compiled here, so that is the method itself.
    """
    for method in vars(torch.optim.Optimizer).values():
        plain = getattr(method, "__wrapped__", None)
        if inspect.isfunction(method) and plain is not None and method.__code__.co_filename == _COMPILE_FILE:
            plain.__dict__.setdefault("__dynamo_disable", plain)


_leave_out_compiler()


def groups(parts: Mapping[str, Sequence[nn.Parameter]], rates: Mapping[str, Rate | float], /) -> Groups:
    """Parameter groups of the parts that move; a part without a rate, or with rate 0, is frozen.

    Raises:
        BadInput: a rate for a part that does not exist, or one that is negative or not a number; rates that
            freeze every part. Nothing is frozen then.
    """
    for name, rate in rates.items():
        value = rate.rate if isinstance(rate, Rate) else rate
        if name not in parts:
            raise BadInput("rates", name, f"is not a part of the model: {nearest(name, parts)}")
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


TECHNICAL_PARAMETERS = ("params", "lr", "capturable", "differentiable", "foreach", "fused", "maximize")
"""Parameters of PyTorch's optimisers that are not settings of a fit; rates belong to the groups."""

KNOB_TEXTS = {
    "alpha": "decay of the running mean square; of `asgd`: exponent of the fall of the rate.",
    "amsgrad": "divide by the largest mean square so far (Reddi et al. 2018, arXiv 1904.09237).",
    "beta2_decay": "exponent of the number of steps by which the mean squares forget less and less.",
    "betas": "decay of the running means of the gradient and of its square.",
    "centered": "divide by the spread about the mean gradient instead of the root mean square.",
    "d": "root mean square above which a step is shortened, in units of the rate.",
    "decoupled_weight_decay": "pull the parameters themselves, as `adamw` does, not through the gradient.",
    "eps": "added to the denominator.",
    "etas": "factors on a step when its gradient changes sign, and when it keeps it.",
    "initial_accumulator_value": "value that the sums of squares start from.",
    "lambd": "how soon the rate falls; it also pulls parameters to zero by this share of each step.",
    "lr_decay": "the rate is divided by 1 + this times the number of steps.",
    "momentum": "share of the last step that is made again.",
    "momentum_decay": "how fast momentum rises to its full value.",
    "rho": "decay of both running means.",
    "step_sizes": "smallest and largest step.",
    "t0": "number of the step after which means are taken.",
    "weight_decay": "pull of the parameters towards zero.",
}
"""What the parameters of PyTorch's optimisers mean."""


def _adapt_optimizer(
    kind: type[torch.optim.Optimizer], text: str, old: Mapping[str, Any], /, **defaults: Any
) -> Callable[..., torch.optim.Optimizer]:
    """An optimiser of PyTorch as a function of groups; its knobs are read from PyTorch's own signature.

    Args:
        kind: the class.
        text: the docstring.
        old: names of knobs in an earlier version.
        **defaults: those that differ from PyTorch's.
    """

    def make(moving: Groups, /, **knobs: Any) -> torch.optim.Optimizer:
        return kind(moving, **{**defaults, **knobs})

    known = [p for p in inspect.signature(kind).parameters.values() if p.name not in TECHNICAL_PARAMETERS]
    values = {p.name: defaults.get(p.name, p.default) for p in known}
    moving = inspect.Parameter("moving", inspect.Parameter.POSITIONAL_ONLY, annotation=Groups)
    knobs = [
        p.replace(kind=p.KEYWORD_ONLY, default=values[p.name], annotation=_annotation_of(values[p.name]))
        for p in known
    ]
    lines = [f"    {name}: {KNOB_TEXTS.get(name, 'see PyTorch.')}" for name in values]
    make.__name__ = make.__qualname__ = kind.__name__.lower()
    make.__doc__ = "\n".join([text, "", "Args:", "    moving: see `groups`.", *lines])
    make.__annotations__ = {p.name: p.annotation for p in (moving, *knobs)}
    make.__signature__ = inspect.Signature([moving, *knobs])  # pyright: ignore[reportFunctionMemberAccess]
    return renamed_knobs(**old)(make)


def _annotation_of(default: Any) -> Any:
    """The annotation of a knob with this default."""
    if isinstance(default, tuple):
        return tuple[tuple(map(_annotation_of, default))]
    if default is None:
        return float | None
    return bool if isinstance(default, bool) else float


OLD_ADAM = {"momentum": "betas[0]", "memory": "betas[1]", "floor": "eps", "decay": "weight_decay"}
ADAM_BETAS = (0.9, 0.99)
"""A shorter memory of squares than PyTorch's 0.999: a fit has some hundred steps, not millions."""

adam = _adapt_optimizer(
    torch.optim.Adam,
    "Adam (Kingma & Ba 2014, arXiv 1412.6980): step size about the rate, independent of gradient scale.",
    OLD_ADAM,
    betas=ADAM_BETAS,
)
adamw = _adapt_optimizer(
    torch.optim.AdamW,
    "Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv 1711.05101).",
    OLD_ADAM,
    betas=ADAM_BETAS,
)
nadam = _adapt_optimizer(
    torch.optim.NAdam,
    "Adam with Nesterov momentum (Dozat 2016).",
    OLD_ADAM | {"fading": "momentum_decay", "decoupled": "decoupled_weight_decay"},
    betas=ADAM_BETAS,
)
radam = _adapt_optimizer(
    torch.optim.RAdam,
    "Adam that takes plain steps until its mean square is known (Liu et al. 2019, arXiv 1908.03265).",
    OLD_ADAM | {"decoupled": "decoupled_weight_decay"},
    betas=ADAM_BETAS,
)
adamax = _adapt_optimizer(
    torch.optim.Adamax,
    "Adam with the largest gradient in place of the mean square (arXiv 1412.6980, section 7).",
    OLD_ADAM,
    betas=ADAM_BETAS,
)
adadelta = _adapt_optimizer(
    torch.optim.Adadelta,
    "Steps of the size of those before (Zeiler 2012, arXiv 1212.5701); rates are factors, usually 1.\n\n"
    "The first steps have about the size of the root of ``eps``.",
    {"memory": "rho", "floor": "eps", "decay": "weight_decay"},
)
adagrad = _adapt_optimizer(
    torch.optim.Adagrad,
    "Steps that shrink with the sum of squared gradients so far (Duchi et al. 2011).",
    {"fading": "lr_decay", "initial": "initial_accumulator_value", "floor": "eps", "decay": "weight_decay"},
)
rmsprop = _adapt_optimizer(
    torch.optim.RMSprop,
    "Gradients over their running root mean square (Hinton 2012, lecture 6).",
    {"memory": "alpha", "floor": "eps", "decay": "weight_decay"},
)
rprop = _adapt_optimizer(
    torch.optim.Rprop,
    "Signs of gradients only (Riedmiller & Braun 1993): for batches that hold the whole scan.\n\n"
    "The rate is the first step; each number then has a step of its own, which shapes do not touch.",
    {"factors": "etas", "steps": "step_sizes"},
)
asgd = _adapt_optimizer(
    torch.optim.ASGD,
    "Gradient descent whose rate falls as a power of the number of steps (Polyak & Juditsky 1992).\n\n"
    "The parameters are those of the last step; their mean is kept in the optimiser's state (``ax``).",
    {"fading": "lambd", "power": "alpha", "averaged": "t0", "decay": "weight_decay"},
)


@renamed_knobs(damping="dampening", decay="weight_decay")
def sgd(
    moving: Groups,
    /,
    *,
    momentum: float = 0.9,
    nesterov: bool = True,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
) -> torch.optim.Optimizer:
    """Gradient descent with momentum; rates are in units of the parameters squared.

    Args:
        moving: see `groups`.
        momentum: share of the last step that is made again.
        nesterov: look ahead; only with momentum and without dampening.
        dampening: share of the gradient that momentum leaves out.
        weight_decay: pull of the parameters towards zero.
    """
    ahead = nesterov and momentum > 0 and dampening == 0
    return torch.optim.SGD(
        moving, lr=1.0, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=ahead
    )


def gauss_newton(
    moving: Groups,
    /,
    *,
    momentum: float | None = None,
    pull: float = 0.1,
    position_prior: bool = True,
    early_floor: float = 1.0,
) -> torch.optim.Optimizer:
    """Diagonal Gauss-Newton steps with Nesterov's momentum: the default; rates are shares of a Newton step.

    Args:
        moving: see `groups`.
        momentum: share of the last step that is made again; default: 0.9, and 0.95 for several slices.
        pull: of the amplitudes of several slices towards one, relative to what the data say; 0: none.
        position_prior: with few electrons, positions move only as far as the information in their own
            patterns allows, compared with the jitter of all (`phaseloom.ptycho.jitter`); false: freely.
        early_floor: counts that ``noise: poisson`` adds to model and counts until the loss of an epoch is
            below 1.2, where the object has one slice and counts are whole numbers (of several slices,
            amplitudes are compared until then); 0: those that it states, from the start.
    """
    if not (0 <= (momentum or 0) < 1 and 0 <= pull < 10):
        raise BadInput(
            "optimizer: gauss_newton", f"momentum {momentum}, pull {pull}", "must be 0 to 1, and 0 to 10"
        )
    if not 0 <= early_floor < math.inf:
        raise BadInput("optimizer: gauss_newton.early_floor", early_floor, "must be a number from 0 up")
    knobs = {"momentum": momentum, "pull": pull, "position_prior": position_prior}
    return GaussNewton(moving, **knobs, early_floor=early_floor)


@renamed_knobs(
    history="history_size",
    inner="max_iter",
    search=("line_search_fn", lambda search: "strong_wolfe" if search else None),
)
def lbfgs(
    moving: Groups,
    /,
    *,
    history_size: int = 10,
    max_iter: int = 4,
    line_search_fn: Literal["strong_wolfe"] | None = "strong_wolfe",
) -> torch.optim.Optimizer:
    """L-BFGS over all patterns at once, with a strong-Wolfe line search.

    An epoch takes up to ``max_iter`` steps and ``1.25 max_iter`` passes over the data (`Epoch.passes`
    counts them). Parts move together: their rates say only whether they move.

    Raises:
        BadInput: a part that is to start or stop at an epoch of its own, or to follow its own shape.

    Args:
        moving: see `groups`.
        history_size: pairs of vectors kept.
        max_iter: steps per epoch.
        line_search_fn: line search; ``None``: full steps.

    Source:
        Liu & Nocedal 1989, doi 10.1007/BF01589116.
    """
    if history_size < 1 or max_iter < 1:
        given = f"history_size {history_size}, max_iter {max_iter}"
        raise BadInput("optimizer: lbfgs", given, "must both be at least 1")
    for group in moving:
        if group["start"] > 1 or group["stop"] is not None or group.get("shape") is not None:
            fix = "cannot start, stop or follow a shape by itself with lbfgs: freeze it, or run adam first"
            raise BadInput("rates", group["name"], fix)
    together = [parameter for group in moving for parameter in group["params"]]
    names = "+".join(group["name"] for group in moving)
    one = {"params": together, "name": names, "base": 1.0, "start": 1, "stop": None, "shape": None}
    return torch.optim.LBFGS(
        [one], lr=1.0, max_iter=max_iter, history_size=history_size, line_search_fn=line_search_fn
    )


class Adafactor(torch.optim.Adafactor):
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


adafactor = _adapt_optimizer(
    Adafactor,
    "Adam with mean squares of rows and columns only, and no momentum (arXiv 1804.04235).\n\n"
    "Its state is nearly nothing beside that of `adam`. Rates are relative to the root mean square of a\n"
    "parameter, and fall as one over the root of the number of steps. The first value of ``eps``\n"
    "is added to squares; the second one is the least root mean square of a parameter, which sets how fast\n"
    "those that start at zero can move.",
    {"memory": ("beta2_decay", operator.neg), "floor": "eps[1]", "longest": "d", "decay": "weight_decay"},
)
