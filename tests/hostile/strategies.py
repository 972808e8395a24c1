"""Parameter files as hypothesis draws them: every knob of every choice by its signature, and junk in it."""

import functools
import inspect
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from phaseloom import spec
from phaseloom.spec import Recipe
from phaseloom.units import Dimension

JUNK: list[Any] = [None, True, False, 0, -1, 1, 2, 3, 7, 10**9, 2**63, 10**400, -(10**30), 0.0, -0.5, 1e-300]
JUNK += [1e308, float("nan"), float("inf"), -float("inf"), "", " ", "auto", "none", "25", "25 mrad", "3 A"]
JUNK += ["80 keV", "1e999 A", "-5 nm", "nan rad", "inf A", "25 furlong", "a" * 5000, "../../x", "/etc/passwd"]
JUNK += ["\u212b", "x\n y", "'", "{", [], [1], [1, 2], [1, 2, 3], [-1, 0], [0.5, float("nan")], ["a"], [[1]]]
JUNK += [["1 A", "2 A"], {}, {"a": 1}, {1: 2}, {"focused": {}}, [None], [[[[1]]]], [10**9, 10**9], "1:30"]


def recipes() -> dict[str, type[Recipe]]:
    """The classes of all parameter files, by name."""
    from phaseloom.direct.recipe import Direct
    from phaseloom.embedding.train import Autoencode
    from phaseloom.reconstruction.recipe import Reconstruct
    from phaseloom.restoration.pairs.noise2noise import PairRecipe
    from phaseloom.restoration.train import Restore
    from phaseloom.retrieval.recipe import Train
    from phaseloom.search.recipe import Search
    from phaseloom.simulation.recipe import Simulate
    from phaseloom.virtual.recipe import Virtual

    found = (Direct, Autoencode, Reconstruct, PairRecipe, Restore, Train, Search, Simulate, Virtual)
    return {one.__name__: one for one in found}


def junk() -> st.SearchStrategy[Any]:
    """A value that no signature expects, or one that some do."""
    return st.one_of(
        st.sampled_from(JUNK),
        st.integers(),
        st.floats(),
        st.text(max_size=12),
        st.lists(st.one_of(st.floats(), st.integers(-5, 5), st.text(max_size=3)), max_size=4),
    )


@functools.cache
def knob_of(room: str, name: str) -> Mapping[str, inspect.Parameter]:
    return spec.knobs(room, name)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values that a knob of a type may have, and some that it may not."""
    dimension = spec.dimension_of(kind)
    if isinstance(dimension, Dimension):
        units = [name for name, _ in dimension.scale]
        numbers = st.floats(allow_nan=True, width=32)
        return st.builds(lambda number, unit: f"{number!r} {unit}", numbers, st.sampled_from(units))
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(list(typing.get_args(kind)))
    plain = {int: st.integers(-3, 10**6), float: st.floats(), bool: st.booleans(), str: st.text(max_size=8)}
    return plain.get(
        kind, st.sampled_from(["scan.h5", "none.npy"]) if kind is Path else st.sampled_from(JUNK)
    )


@st.composite
def nodes(draw: st.DrawFn, room: str) -> Any:
    """A call of a function of a room with some of its knobs, most of them junk."""
    name = draw(st.sampled_from(spec.names(room)))
    known = knob_of(room, name)
    needed = [key for key, knob in known.items() if knob.default is knob.empty]
    chosen = draw(st.lists(st.sampled_from(sorted(known)), max_size=3, unique=True)) if known else []
    given = {key: draw(st.one_of(values_of(known[key].annotation), junk())) for key in {*chosen, *needed}}
    times = draw(
        st.one_of(st.just({}), st.fixed_dictionaries({"every": st.one_of(st.integers(-1, 3), junk())}))
    )
    return {name: given, **times} if draw(st.integers(0, 9)) else draw(junk())


@st.composite
def trees(draw: st.DrawFn, recipe: type[Recipe]) -> dict[str, Any]:
    """The tree of a parameter file with one to four fields."""
    rooms = spec.modules_of_calls(recipe)
    fields = draw(st.lists(st.sampled_from(sorted(recipe.model_fields)), min_size=1, max_size=4, unique=True))
    tree: dict[str, Any] = {"file": "scan.h5"} if "file" in recipe.model_fields else {}
    for name in fields:
        if name in rooms:
            info = recipe.model_fields[name]
            one = nodes(rooms[name])
            many = typing.get_origin(info.annotation) is tuple
            tree[name] = draw(st.lists(one, max_size=2) if many else one)
        else:
            tree[name] = draw(junk())
    return tree
