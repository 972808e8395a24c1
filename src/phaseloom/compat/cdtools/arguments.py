"""The arguments of CDTools' calls in one table, and checks that name the argument that is wrong."""

import inspect
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from phaseloom.errors import BadInput, nearest

__all__ = ["ARGUMENTS", "Argument", "accepts", "check_arguments", "check_number", "check_path", "check_whole"]
__all__ += ["report_write_errors"]

SMALLEST_POSITIVE = 1e-30
"""Least value of an argument that must be above zero."""

REQUIRED = inspect.Parameter.empty


class Argument(NamedTuple):
    """An argument: its default, its meaning, and the least value of a number.

    Attributes:
        default: `REQUIRED` where there is none.
        meaning: for the docstring.
        least: of a number; ``None``: not a number, or checked elsewhere.
        whole: whether the number is an integer.
    """

    default: Any
    meaning: str
    least: float | None = None
    whole: bool = False


ANY = -math.inf
ARGUMENTS: dict[str, Argument] = {
    # Ptycho2DDataset
    "translations": Argument(REQUIRED, "``(n, 3)``, motion of the beam, metres."),
    "patterns": Argument(REQUIRED, "``(n, y, x)`` counts, numpy or torch."),
    "intensities": Argument(None, "``(n,)`` of each shot."),
    "axes": Argument(None, "names of the axes of ``patterns``."),
    "entry_info": Argument(None, "what is known of the experiment, by name (``title``, ``start_time`` ...)."),
    "sample_info": Argument(None, "what is known of the sample, by name; ``orientation``: its axes as rows."),
    "wavelength": Argument(None, "metres."),
    "detector_geometry": Argument(None, "``distance``, ``basis`` ``(3, 2)`` and ``corner``, metres."),
    "mask": Argument(None, "``(y, x)``, True: good."),
    "qe_mask": Argument(None, "``(y, x)`` efficiency of the pixels."),
    "background": Argument(None, "``(y, x)`` counts without beam."),
    # from_dataset
    "dataset": Argument(REQUIRED, "the data; its ``intensities`` are where the weights start."),
    "dz": Argument(REQUIRED, "distance between slices, metres."),
    "nz": Argument(REQUIRED, "number of slices.", 1, whole=True),
    "probe_convergence_semiangle": Argument(REQUIRED, "half-angle of the aperture, radian."),
    "probe": Argument(
        None,
        "on the sample at the mean height: complex ``(y, x)`` or ``(mode, y, x)`` in square roots of "
        "counts, or an illumination of ours; default: from the mean pattern.",
    ),
    "randomize_ang": Argument(0, "width of the random phases (radian) of the initial object.", 0),
    "padding": Argument(0, "no effect, as in CDTools."),
    "n_modes": Argument(1, "incoherent modes of the probe.", 1, whole=True),
    "n_obj_modes": Argument(
        1,
        "mutually incoherent states of the object, each seen by all modes of the probe (in CDTools, mode i "
        "of the probe sees state i).",
        1,
        whole=True,
    ),
    "dm_rank": Argument(
        None,
        "modes of each pattern, mixed from ``n_modes`` in common (OPRP); -1: as many. ``weights`` are then "
        "the mixtures, complex ``(n, dm_rank, n_modes)``.",
        -1,
        whole=True,
    ),
    "translation_scale": Argument(
        1, "object pixels per unit of ``translation_offsets``, which move as much faster.", SMALLEST_POSITIVE
    ),
    "saturation": Argument(None, "counts at which a pixel of the detector is full.", SMALLEST_POSITIVE),
    "use_qe_mask": Argument(False, "multiply by the dataset's ``qe_mask``."),
    "probe_support_radius": Argument(
        None, "pixels of the probe beyond which it is dark, at every step.", SMALLEST_POSITIVE
    ),
    "probe_fourier_crop": Argument(
        None, "plane waves that the probe lacks at each edge of its spectrum.", 0, whole=True
    ),
    "propagation_distance": Argument(
        None,
        "metres. Far field: that the focused probe has propagated to the sample (positive: the focus lies "
        "before it); near field: from the focus to the sample.",
        ANY,
    ),
    "scattering_mode": Argument(
        None,
        "``t``: the sample lies across the beam; ``r``: it reflects the beam into the middle of the "
        "detector; default: as the data say.",
    ),
    "oversampling": Argument(
        1, "modelled pixels per detector pixel and axis; the probe has as much more room.", 1, whole=True
    ),
    "fourier_probe": Argument(False, "optimise the probe's plane waves instead of its pixels."),
    "propagate_probe": Argument(True, "propagate the probe to where tilt and motion put each pattern."),
    "correct_tilt": Argument(
        True,
        "compare each pixel at the frequency that it sees, exactly; pixels beyond those of the model are "
        "left out.",
    ),
    "lens": Argument(False, "with ``correct_tilt``: the detector is in the back focal plane of a lens."),
    "loss": Argument(
        "amplitude mse", "``amplitude mse``, ``intensity mse`` or ``poisson nll``; ``_`` for a space."
    ),
    "units": Argument("um", "kept as ``model.units``; axes have the unit that suits them."),
    "allow_probe_fourier_shifts": Argument(
        False, "refine a tilt of the beam for each shot, as a shift of its pattern."
    ),
    "simulate_probe_translation": Argument(
        False, "the beam moves and the detector does not: patterns move with it."
    ),
    "simulate_finite_pixels": Argument(False, "pixels of the detector count on their whole area."),
    "exponentiate_obj": Argument(False, "an object of amplitude and phase, not of real and imaginary part."),
    "phase_only": Argument(
        False,
        "an object of phase, whose amplitude stays one (in CDTools it only starts so, unless "
        "``exponentiate_obj``).",
    ),
    "obj_view_crop": Argument(
        None, "pixels that figures leave out at each edge of the object.", ANY, whole=True
    ),
    "obj_padding": Argument(
        None, "pixels around the scanned field; default: what positions need to be refined.", 0, whole=True
    ),
    "near_field": Argument(False, "the detector sees the near field."),
    "surface_normal": Argument(
        None, "of the sample (x, y, z), the beam along z, of either sign; comes before ``scattering_mode``."
    ),
    "refine_heights": Argument(True, "refine ``model.heights``, moves of each in depths of focus."),
    "panel_plot_mode": Argument(True, "no effect: one figure shows all."),
    "plot_level": Argument(2, "no effect."),
    "probe_shape": Argument(None, "not supported."),
    "propagator_fourier_crop": Argument(None, "not supported."),
    "replicate_slice": Argument(False, "not supported."),
    # from_dataset of RPI
    "calibration": Argument(
        REQUIRED,
        "what ``save_results`` of a model gave, here or in CDTools: of it ``probe``, ``obj_basis`` and "
        "``wavelength``, and, if there, ``background``, ``mask``, ``oversampling``.",
    ),
    "obj_size": Argument(
        None, "pixels of the object (rows, columns); default: half as many as the probe has."
    ),
    "initialization": Argument(
        "random",
        "``random`` phases, ``uniform`` (finds objects of less than a turn of phase from far fewer pixels "
        "of the pattern), or ``spectral``, from the first pattern.",
    ),
    "weight_matrix": Argument(False, "refine how the modes of the probe mix."),
    "probe_threshold": Argument(
        0,
        "the object is zero where the probe's amplitude, on the object's pixels, is below this share of its "
        "peak, but for a border of one pixel.",
    ),
    "dtype": Argument(None, "no effect: single precision."),
    # *_optimize
    "iterations": Argument(REQUIRED, "epochs.", 0, whole=True),
    "batch_size": Argument(15, "patterns per step; ``None``: all.", 1, whole=True),
    "lr": Argument(None, "learning rate of every part."),
    "lr_factors": Argument(None, "factors on ``lr`` by name of the part."),
    "betas": Argument((0.9, 0.999), "decay of the means of gradients and of their squares."),
    "schedule": Argument(False, "divide rates by five when the loss has stood still for ten epochs."),
    "amsgrad": Argument(False, "divide by the largest mean square so far."),
    "momentum": Argument(0, "share of the last step that is added.", 0),
    "dampening": Argument(0, "share of the gradient that momentum leaves out.", 0),
    "weight_decay": Argument(0, "L2 penalty.", 0),
    "nesterov": Argument(False, "Nesterov's momentum."),
    "history_size": Argument(2, "pairs of vectors that L-BFGS stores.", 1, whole=True),
    "line_search_fn": Argument(None, "``strong_wolfe`` or none."),
    "subset": Argument(None, "numbers of the patterns to use."),
    "regularization_factor": Argument(None, "what the model's ``regularizer`` is given, if it has one."),
    "thread": Argument(True, "no effect: figures are drawn between epochs."),
    "calculation_width": Argument(
        None,
        "patterns modelled at once; default: what fits the caches, and 10 for a model of your own.",
        1,
        whole=True,
    ),
    "custom_data_loader": Argument(None, "not supported."),
    "shuffle": Argument(True, "must be True."),
}
"""Every argument that several calls share, in CDTools' spelling; their order is that of each call."""


def accepts(names: str, /, summary: str = "", **defaults: Any) -> Callable[[Callable[..., Any]], Any]:
    """Give a method the signature and the docstring of arguments of the table; it is called with all of them.

    Args:
        names: of the arguments, in order, after ``self`` or ``cls``; ``*``: the following by name only.
        summary: replaces the first lines of the docstring.
        **defaults: that differ from those of the table.

    Example:
        >>> class Model:
        ...     @accepts("dataset n_modes", n_modes=2)
        ...     def make(self, **given):
        ...         return given
        >>> Model().make(None)
        {'dataset': None, 'n_modes': 2}
        >>> Model().make(None, n_mode=2)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: Model.make: n_mode is not an argument: did you mean 'n_modes'?
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", kind)]
    for name in names.split():
        if name == "*":
            kind = inspect.Parameter.KEYWORD_ONLY
            continue
        default = defaults.get(name, ARGUMENTS[name].default)
        parameters.append(inspect.Parameter(name, kind, default=default))
    signature = inspect.Signature(parameters)

    def decorate(method: Callable[..., Any]) -> Any:
        @wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = bind(method.__qualname__, signature, args, kwargs)
            return method(given.pop("self"), **given)

        text = summary or inspect.cleandoc(method.__doc__ or "")
        lines = [f"    {one.name}: {ARGUMENTS[one.name].meaning}" for one in parameters[1:]]
        call.__doc__ = "\n".join([text, "", "Args:", *lines])
        call.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        return call

    return decorate


def bind(name: str, signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name, defaults included.

    Raises:
        BadInput: an argument that the call lacks, does not have or was given twice.
    """
    place = name.rpartition("<locals>.")[2].removesuffix(".__init__")
    known = list(signature.parameters)[1:]
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        for word in kwargs:
            if word not in known:
                raise BadInput(place, word, f"is not an argument: {nearest(word, known)}") from None
        raise BadInput(place, None, f"{error}: the arguments are {', '.join(known)}") from None
    bound.apply_defaults()
    return dict(bound.arguments)


def check_number(place: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number from ``low`` up to and including ``high``.

    Example:
        >>> check_number("Adam_optimize: lr", "fast", 0)
        Traceback (most recent call last):
        phaseloom.errors.BadInput: Adam_optimize: lr: fast must be a finite number from 0 up
    """
    plain = value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value
    real = isinstance(plain, int | float | np.integer | np.floating) and not isinstance(plain, bool)
    if not (real and math.isfinite(plain) and low <= plain <= high):
        ends = f" from {low:g} up" if high == math.inf else f" from {low:g} to {high:g}"
        ends = "" if low == -math.inf else " above zero" if 0 < low <= SMALLEST_POSITIVE else ends
        raise BadInput(place, value, f"must be a finite number{ends}")
    return float(plain)


def check_whole(place: str, value: Any, low: float = 1) -> int:
    """An integer from ``low`` up."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        ends = "" if low == -math.inf else f" from {low} up"
        raise BadInput(place, value, f"must be a whole number{ends}")
    return int(value)


def check_arguments(call: str, given: dict[str, Any]) -> None:
    """Check the numbers among arguments by the limits of the table; ``None`` is left."""
    for name, value in given.items():
        known = ARGUMENTS.get(name)
        if known is None or known.least is None or value is None:
            continue
        if known.whole:
            check_whole(f"{call}: {name}", value, known.least)
        else:
            check_number(f"{call}: {name}", value, known.least)


def check_path(place: str, name: Any) -> Path:
    """The path of a file."""
    if not isinstance(name, str | os.PathLike):
        raise BadInput(place, type(name).__name__, "is not the name of a file: give that first")
    path = Path(name)
    if path.is_dir():
        raise BadInput(place, str(path), "is a folder: name a file in it")
    return path


@contextmanager
def report_write_errors(place: str, path: Any) -> Iterator[None]:
    """Turn what the system, or the figure's library, raises on writing into a `BadInput`."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(place, str(path), f"cannot be written: {error}") from error
