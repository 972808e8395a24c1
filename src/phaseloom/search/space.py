"""What a search may change: knobs by their paths in the file, with ranges, choices and conditions."""

import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from phaseloom.errors import BadInput, nearest
from phaseloom.search.parameter_paths import address, placed
from phaseloom.spec import Recipe
from phaseloom.units import Dimension

__all__ = ["Knob", "Searched", "Space"]


class Searched(BaseModel):
    """What a file says of one knob: ``[1, 2, 4]``, or ``{low: 50 A, high: 200 A}``.

    Attributes:
        low, high: ends of a range, which belong to it.
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
    def _listed(cls, data: Any) -> Any:
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
        log, step: see `Searched`.
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

    def active(self, drawn: Mapping[str, Any], /) -> bool:
        """Whether it is there, given what was drawn for others."""
        return all(path in drawn and drawn[path] in allowed for path, allowed in self.when.items())

    def written(self, drawn: Any, /) -> Any:
        """A drawn value as a file has it, with its unit, to read back as the very same number."""
        if self.choices is not None:
            return self.choices[drawn]
        if self.dimension is None or drawn == 0:
            return drawn
        return f"{float(drawn)!r} {self.dimension.scale[0][0]}"

    def shown(self, drawn: Any, /) -> str:
        """A drawn value for eyes."""
        if self.choices is not None:
            return str(drawn)
        return f"{drawn:.4g}" if self.dimension is None else self.dimension.show(float(f"{drawn:.4g}"))

    def draw(self, trial: Any, /) -> Any:
        """Ask a trial of Optuna for a value."""
        if self.choices is not None:
            return trial.suggest_categorical(self.path, list(self.choices))
        assert self.ends is not None
        low, high = self.ends
        if self.whole:
            return trial.suggest_int(self.path, int(low), int(high), log=self.log, step=int(self.step or 1))
        return trial.suggest_float(self.path, low, high, log=self.log, step=self.step)

    def points(self) -> list[Any]:
        """All values that it can have.

        Raises:
            BadInput: more than can be counted.
        """
        if self.choices is not None:
            return [*self.choices]
        assert self.ends is not None
        if not self.whole and self.step is None:
            raise BadInput(f"over: {self.path}", None, "needs a step, or choices, to be searched on a grid")
        step, (low, high) = self.step or 1, self.ends
        values = [low + number * step for number in range(round((high - low) / step) + 1)]
        return [int(value) for value in values] if self.whole else values


@dataclass(frozen=True)
class Space:
    """All knobs of a search, each after those that it depends on.

    Example:
        >>> from phaseloom.reconstruction.recipe import Reconstruct
        >>> base = Reconstruct.of({"file": "scan.h5", "object": "pixels"})
        >>> space = Space.of(base, {"object.pixels.slices": Searched(low=1, high=4)})
        >>> space.put(base, {"object.pixels.slices": 3}).object.values
        {'slices': 3}
    """

    knobs: tuple[Knob, ...]

    @classmethod
    def of(cls, recipe: Recipe, over: Mapping[str, Searched], /) -> "Space":
        """The knobs of a file, held against the recipe that they change.

        Raises:
            BadInput: a path that leads nowhere, values that the recipe refuses, conditions that cannot be.
        """
        if not over:
            raise BadInput("over", None, "names no knob: write a path and its range, epochs: [10, 20]")
        known: dict[str, Knob] = {}
        for path in _ordered(over):
            known[path] = _knob(recipe, path, over[path], known)
        space = cls(tuple(known.values()))
        for knob in space.knobs:
            space._try(recipe, knob)
        return space

    def put(self, recipe: Any, drawn: Mapping[str, Any], /) -> Any:
        """The recipe with what was drawn."""
        return placed(recipe, {one.path: one.written(drawn[one.path]) for one in self._there(drawn)})

    def draw(self, trial: Any, /) -> dict[str, Any]:
        """Ask a trial of Optuna for a value of every knob that is there."""
        drawn: dict[str, Any] = {}
        for knob in self.knobs:
            if knob.active(drawn):
                drawn[knob.path] = knob.draw(trial)
        return drawn

    def shown(self, drawn: Mapping[str, Any], /) -> dict[str, str]:
        """What was drawn, for eyes."""
        return {one.path: one.shown(drawn[one.path]) for one in self._there(drawn)}

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination of values, conditions obeyed; errors as of `Knob.points`."""
        return _combined(self.knobs, {})

    def _there(self, drawn: Mapping[str, Any]) -> list[Knob]:
        return [knob for knob in self.knobs if knob.path in drawn]

    def _try(self, recipe: Recipe, knob: Knob) -> None:
        """Both ends of a range, or every choice, with what the knob depends on."""
        around = _around(knob, {one.path: one for one in self.knobs})
        for value in knob.choices if knob.choices is not None else knob.ends or ():
            try:
                self.put(recipe, {**around, knob.path: int(value) if knob.whole else value})
            except BadInput as problem:
                raise BadInput(
                    f"over: {knob.path}", None, f"cannot be {knob.shown(value)}: {problem}"
                ) from None


def _combined(knobs: Sequence[Knob], drawn: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not knobs:
        yield drawn
        return
    first, rest = knobs[0], knobs[1:]
    if not first.active(drawn):
        yield from _combined(rest, drawn)
        return
    for value in first.points():
        yield from _combined(rest, {**drawn, first.path: value})


def _around(knob: Knob, known: Mapping[str, Knob]) -> dict[str, Any]:
    """What others have to be for a knob to be there."""
    out: dict[str, Any] = {}
    for path, allowed in knob.when.items():
        out |= {**_around(known[path], known), path: allowed[0]}
    return out


def _ordered(over: Mapping[str, Searched]) -> list[str]:
    """Paths, each after those that it depends on."""
    out: list[str] = []
    left = sorted(over, key=lambda path: path.count("."))
    while left:
        ready = [path for path in left if not _needs(path, over) - set(out)]
        if not ready:
            raise BadInput(f"over: {left[0]}", "when", "goes round in a circle: each waits for the other")
        out += ready
        left = [path for path in left if path not in ready]
    return out


def _needs(path: str, over: Mapping[str, Searched]) -> set[str]:
    above = {other for other in over if path.startswith(f"{other}.")}
    for other in over[path].when:
        if other not in over:
            fix = "is not searched itself: write it under over, or leave the condition out"
            raise BadInput(f"over: {path}: when", other, fix)
    return above | set(over[path].when)


def _knob(recipe: Recipe, path: str, asked: Searched, known: Mapping[str, Knob]) -> Knob:
    place = f"over: {path}"
    when = {other: _allowed(known[other], value, f"{place}: when") for other, value in asked.when.items()}
    kind, above = None, [other for other in known if path.startswith(f"{other}.")]
    for other in above:
        when[other], kind = _leading(recipe, path, known, other)
    found = kind or address(recipe, path)
    if asked.choices is not None:
        return Knob(path, choices=_labelled(asked.choices, place), when=when)
    low, high = (_number(value, found.dimension, place) for value in (asked.low, asked.high))
    whole = found.whole if found.whole is not None else _are_whole(asked.low, asked.high)
    if not found.numeric:
        raise BadInput(place, None, "is no number: give [choices, ...]")
    if not low < high or (asked.log and low <= 0):
        none = "has low above high" if low > high else "has one value: give it in the run file, not here"
        fix = none if not low < high else "needs a low above zero, to be drawn by logarithm"
        raise BadInput(place, None, fix)
    if whole and not _are_whole(low, high):
        raise BadInput(place, None, "is a whole number: give whole ends")
    step = None if asked.step is None else _number(asked.step, found.dimension, place)
    if step is not None:
        if not 0 < step <= high - low or (whole and not _are_whole(step)):
            raise BadInput(place, f"step: {asked.step}", "does not fit between low and high")
        high = low + math.floor((high - low) / step * (1 + 1e-12)) * step
    return Knob(path, found.dimension, (low, high), whole, asked.log, step, None, when)


def _leading(recipe: Recipe, path: str, known: Mapping[str, Knob], other: str) -> tuple[tuple[Any, ...], Any]:
    """The choices of a searched section in which there is such a path, and what is there."""
    labels, kind, problem = [], None, None
    for label, value in (known[other].choices or {}).items():
        around = _around(known[other], known)
        try:
            there = {name: known[name].written(drawn) for name, drawn in around.items()}
            kind = address(placed(recipe, {**there, other: value}), path)
            labels.append(label)
        except BadInput as one:
            problem = one
    if kind is None:
        raise problem or BadInput(f"over: {path}", None, f"is part of {other}, which is a number")
    return tuple(labels), kind


def _allowed(knob: Knob, wanted: Any, place: str) -> tuple[Any, ...]:
    """What a condition allows, as a study knows it; a call may go by its name alone."""
    values = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
    if knob.choices is None:
        found = tuple(_number(value, knob.dimension, place) for value in values)
        return tuple(int(one) for one in found) if knob.whole else found
    out: list[Any] = []
    for value in values:
        fitting = [label for label, one in knob.choices.items() if value in (one, _name(one))]
        if not fitting:
            raise BadInput(place, value, f"is no choice of {knob.path}: {', '.join(knob.choices)}")
        out += fitting
    return tuple(out)


def _name(value: Any) -> Any:
    """The name of a call."""
    return next(iter(value)) if isinstance(value, dict) and len(value) == 1 else value


def _labelled(values: Sequence[Any], place: str) -> dict[str, Any]:
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


def _number(value: Any, dimension: Dimension | None, place: str) -> float:
    if dimension is not None:
        return dimension.parse(value, place)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadInput(place, value, "is not a number: give one, or [choices, ...]")
    return number


def _are_whole(*values: Any) -> bool:
    return all(
        isinstance(value, int) or (isinstance(value, float) and value.is_integer()) for value in values
    )
