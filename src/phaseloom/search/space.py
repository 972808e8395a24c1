"""What a search may change: knobs by their paths in the file, with ranges, choices and conditions."""

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from phaseloom.errors import BadInput, nearest
from phaseloom.runs.parameter_paths import set_parameters
from phaseloom.search.parameter_paths import find_parameter
from phaseloom.spec import Recipe
from phaseloom.units import Dimension

__all__ = ["Distribution", "Knob", "Space"]


class Distribution(BaseModel):
    """What a file says of one knob: ``[1, 2, 4]``, or ``{low: 50 A, high: 200 A}``.

    Attributes:
        low, high: ends of a range, both included.
        log: whether values are drawn by their logarithm.
        step: between the values of a range.
        choices: in place of a range.
        when: values of other knobs, by their paths, with which this one is searched at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    low: Any = None
    high: Any = None
    log: bool = False
    step: Any = None
    choices: tuple[Any, ...] | None = None
    when: Mapping[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_list(cls, data: Any) -> Any:
        for name in data if isinstance(data, dict) else ():
            if name not in cls.model_fields:
                raise BadInput("over", f"there is no '{name}';", nearest(name, cls.model_fields))
        return {"choices": data} if isinstance(data, list | tuple) else data

    @model_validator(mode="after")
    def _whole(self) -> typing.Self:
        ranged = [name for name in ("low", "high") if getattr(self, name) is not None]
        if self.choices is None and len(ranged) < 2:
            raise BadInput("over", None, "needs [choices, ...], or {low: ..., high: ...}")
        if self.choices is not None and (ranged or self.step is not None or self.log):
            raise BadInput("over", "choices", "go without low, high, step and log")
        if self.choices is not None and not self.choices:
            raise BadInput("over", "[]", "holds no choice")
        if self.log and self.step is not None:
            raise BadInput("over", "log: true", "goes without a step")
        return self


@dataclass(frozen=True)
class Knob:
    """A knob as it is drawn: numbers in the units that computations have.

    Attributes:
        path: in the file.
        dimension: of its numbers, or ``None``.
        ends: lowest and highest value of a range, or ``None``.
        whole: only whole numbers.
        log, step: see `Distribution`.
        choices: values by the labels that a study knows them by, or ``None``.
        when: labels or numbers of other knobs, by their paths, with which this one is there.
    """

    path: str
    dimension: Dimension | None = None
    ends: tuple[float, float] | None = None
    whole: bool = False
    log: bool = False
    step: float | None = None
    choices: Mapping[str, Any] | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def is_active(self, params: Mapping[str, Any], /) -> bool:
        """Whether it is searched, given the values of others."""
        return all(path in params and params[path] in allowed for path, allowed in self.when.items())

    def to_file_value(self, value: Any, /) -> Any:
        """A value as a file has it, with its unit, to read back as the very same number."""
        if self.choices is not None:
            return self.choices[value]
        if self.dimension is None or value == 0:
            return value
        return f"{float(value)!r} {self.dimension.scale[0][0]}"

    def format_value(self, value: Any, /) -> str:
        """A value as text, with its unit."""
        if self.choices is not None:
            return str(value)
        return f"{value:.4g}" if self.dimension is None else self.dimension.show(float(f"{value:.4g}"))

    def suggest(self, trial: Any, /) -> Any:
        """Ask a trial of Optuna for a value."""
        if self.choices is not None:
            return trial.suggest_categorical(self.path, list(self.choices))
        assert self.ends is not None
        low, high = self.ends
        if self.whole:
            return trial.suggest_int(self.path, int(low), int(high), log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.path, low, high, log=self.log, step=self.step)

    def list_values(self) -> list[Any]:
        """All values that it can have.

        Raises:
            BadInput: more than can be counted.
        """
        if self.choices is not None:
            return [*self.choices]
        assert self.ends is not None
        if not self.whole and self.step is None:
            raise BadInput(f"over: {self.path}", None, "needs a step, or choices, to be searched on a grid")
        step = self.step or 1
        low, high = self.ends
        values = [low + number * step for number in range(round((high - low) / step) + 1)]
        return [int(value) for value in values] if self.whole else values


@dataclass(frozen=True)
class Space:
    """All knobs of a search, each after those that it depends on.

    Example:
        >>> from phaseloom.reconstruction.recipe import Reconstruct
        >>> base = Reconstruct.of({"file": "scan.h5", "object": "pixels"})
        >>> space = Space.of(base, {"object.pixels.slices": Distribution(low=1, high=4)})
        >>> space.apply(base, {"object.pixels.slices": 3}).object.values
        {'slices': 3}
    """

    knobs: tuple[Knob, ...]

    @classmethod
    def of(cls, recipe: Recipe, over: Mapping[str, Distribution], /) -> "Space":
        """The knobs of a file, checked with the recipe that they change.

        Raises:
            BadInput: a path that leads nowhere, values that the recipe refuses, conditions that cannot be.
        """
        if not over:
            raise BadInput("over", None, "names no knob: write a path and its range, epochs: [10, 20]")
        known: dict[str, Knob] = {}
        for path in _order_paths(over):
            known[path] = _make_knob(recipe, path, over[path], known)
        space = cls(tuple(known.values()))
        for knob in space.knobs:
            space._check_values(recipe, knob)
        return space

    def apply(self, recipe: Any, params: Mapping[str, Any], /) -> Any:
        """The recipe with these values of its knobs."""
        active = [knob for knob in self.knobs if knob.path in params]
        return set_parameters(recipe, {knob.path: knob.to_file_value(params[knob.path]) for knob in active})

    def suggest(self, trial: Any, /) -> dict[str, Any]:
        """Ask a trial of Optuna for a value of every knob that is there."""
        params: dict[str, Any] = {}
        for knob in self.knobs:
            if knob.is_active(params):
                params[knob.path] = knob.suggest(trial)
        return params

    def format_params(self, params: Mapping[str, Any], /) -> dict[str, str]:
        """Values as text, with units."""
        active = [knob for knob in self.knobs if knob.path in params]
        return {knob.path: knob.format_value(params[knob.path]) for knob in active}

    def list_combinations(self) -> Iterator[dict[str, Any]]:
        """Every combination of values, conditions obeyed; errors as of `Knob.list_values`."""
        return _combine_values(self.knobs, {})

    def _check_values(self, recipe: Recipe, knob: Knob) -> None:
        """Both ends of a range, or every choice, with what the knob depends on."""
        around = _require_params(knob, {one.path: one for one in self.knobs})
        for value in knob.choices if knob.choices is not None else knob.ends or ():
            try:
                self.apply(recipe, {**around, knob.path: int(value) if knob.whole else value})
            except BadInput as problem:
                raise BadInput(
                    f"over: {knob.path}", None, f"cannot be {knob.format_value(value)}: {problem}"
                ) from None


def _combine_values(knobs: Sequence[Knob], params: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not knobs:
        yield params
        return
    first = knobs[0]
    rest = knobs[1:]
    if not first.is_active(params):
        yield from _combine_values(rest, params)
        return
    for value in first.list_values():
        yield from _combine_values(rest, {**params, first.path: value})


def _require_params(knob: Knob, known: Mapping[str, Knob]) -> dict[str, Any]:
    """What others have to be for a knob to be there."""
    out: dict[str, Any] = {}
    for path, allowed in knob.when.items():
        out |= {**_require_params(known[path], known), path: allowed[0]}
    return out


def _order_paths(over: Mapping[str, Distribution]) -> list[str]:
    """Paths, each after those that it depends on."""
    out: list[str] = []
    left = sorted(over, key=lambda path: path.count("."))
    while left:
        ready = [path for path in left if not _list_dependencies(path, over) - set(out)]
        if not ready:
            raise BadInput(f"over: {left[0]}", "when", "goes round in a circle: each waits for the other")
        out += ready
        left = [path for path in left if path not in ready]
    return out


def _list_dependencies(path: str, over: Mapping[str, Distribution]) -> set[str]:
    above = {other for other in over if path.startswith(f"{other}.")}
    for other in over[path].when:
        if other not in over:
            fix = "is not searched itself: write it under over, or leave the condition out"
            raise BadInput(f"over: {path}: when", other, fix)
    return above | set(over[path].when)


def _make_knob(recipe: Recipe, path: str, given: Distribution, known: Mapping[str, Knob]) -> Knob:
    place = f"over: {path}"
    when = {
        other: _parse_condition(known[other], value, f"{place}: when") for other, value in given.when.items()
    }
    kind = None
    above = [other for other in known if path.startswith(f"{other}.")]
    for other in above:
        when[other], kind = _match_choices(recipe, path, known, other)
    found = kind or find_parameter(recipe, path)
    if given.choices is not None:
        return Knob(path, choices=_label_choices(given.choices, place), when=when)
    low, high = (_parse_number(value, found.dimension, place) for value in (given.low, given.high))
    whole = found.whole if found.whole is not None else _are_integers(given.low, given.high)
    if not found.numeric:
        raise BadInput(place, None, "is not a number: give [choices, ...]")
    if not low < high or (given.log and low <= 0):
        none = "has low above high" if low > high else "has one value: give it in the run file, not here"
        fix = none if not low < high else "needs a low above zero, to be drawn by logarithm"
        raise BadInput(place, None, fix)
    if whole and not _are_integers(low, high):
        raise BadInput(place, None, "is a whole number: give whole ends")
    step = None if given.step is None else _parse_number(given.step, found.dimension, place)
    if step is not None:
        if not 0 < step <= high - low or (whole and not _are_integers(step)):
            raise BadInput(place, f"step: {given.step}", "does not fit between low and high")
        high = low + math.floor((high - low) / step * (1 + 1e-12)) * step
    return Knob(path, found.dimension, (low, high), whole, given.log, step, None, when)


def _match_choices(
    recipe: Recipe, path: str, known: Mapping[str, Knob], other: str
) -> tuple[tuple[Any, ...], Any]:
    """The choices of a searched section in which there is such a path, and what is there."""
    labels = []
    kind = None
    problem = None
    for label, value in (known[other].choices or {}).items():
        around = _require_params(known[other], known)
        try:
            there = {name: known[name].to_file_value(drawn) for name, drawn in around.items()}
            kind = find_parameter(set_parameters(recipe, {**there, other: value}), path)
            labels.append(label)
        except BadInput as one:
            problem = one
    if kind is None:
        raise problem or BadInput(f"over: {path}", None, f"is part of {other}, which is a number")
    return tuple(labels), kind


def _parse_condition(knob: Knob, wanted: Any, place: str) -> tuple[Any, ...]:
    """What a condition allows, as a study knows it; a call may go by its name alone."""
    values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if knob.choices is None:
        found = tuple(_parse_number(value, knob.dimension, place) for value in values)
        return tuple(int(one) for one in found) if knob.whole else found
    out: list[Any] = []
    for value in values:
        fitting = [label for label, one in knob.choices.items() if value in (one, _call_name(one))]
        if not fitting:
            raise BadInput(place, value, f"is not a choice of {knob.path}: {', '.join(knob.choices)}")
        out += fitting
    return tuple(out)


def _call_name(value: Any) -> Any:
    """The name of a call."""
    return next(iter(value)) if isinstance(value, dict) and len(value) == 1 else value


def _label_choices(values: Sequence[Any], place: str) -> dict[str, Any]:
    """Values by short texts, of which there is one for each."""
    out: dict[str, Any] = {}
    for value in values:
        text = (
            value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
        )
        label = " ".join(text.removesuffix("...\n").split())
        if label in out:
            raise BadInput(place, label, "stands twice: remove one of them")
        out[label] = value
    return out


def _parse_number(value: Any, dimension: Dimension | None, place: str) -> float:
    if dimension is not None:
        return dimension.parse(value, place)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(place, value, "is not a number: give one, or [choices, ...]")
    return number


def _are_integers(*values: Any) -> bool:
    return all(
        isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in values
    )
