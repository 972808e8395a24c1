"""A parameter file is a list of calls: what is read, what is refused, and what is written back."""

import inspect
import operator
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from phaseloom.errors import BadInput
from phaseloom.reconstruction.recipe import Reconstruct
from phaseloom.renames import renamed_knobs, targets
from phaseloom.spec import (
    Call,
    Recipe,
    call,
    knobs,
    load_yaml,
    names,
    part,
    to_yaml,
)
from phaseloom.units import Length

ROOM = "kitchen"


@pytest.fixture(autouse=True, scope="module")
def room() -> Any:
    """A room with two functions and something that is none of its choices."""
    module = ModuleType(ROOM)

    def bake(dough: str, /, *, time: int, size: Length = 10.0, tins: tuple[Length, ...] = ()) -> str:
        return f"{dough} for {time}"

    def fry(dough: str, /, *, oil: Literal["olive", "nut"] = "olive", book: Path | None = None) -> str:
        return f"{dough} in {oil}"

    module.bake, module.fry, module.salt = bake, fry, 3
    module.__all__ = ["bake", "fry", "salt"]
    sys.modules[ROOM] = module
    yield module
    del sys.modules[ROOM]


class Meal(Recipe):
    """A small recipe."""

    main: Call = part(ROOM, "fry")
    sides: tuple[Call, ...] = part(ROOM, ())
    extra: Call | None = part(ROOM, None)
    guests: int = Field(2, ge=1)
    notes: dict[str, Any] = Field(default_factory=dict)


def test_the_room_says_what_can_be_called():
    assert names(ROOM) == ["bake", "fry"]
    assert list(knobs(ROOM, "bake")) == ["time", "size", "tins"]


def test_a_call_takes_values_from_the_file_and_from_the_pipeline():
    made = call(ROOM, {"bake": {"time": 20, "size": "2 nm"}}, "main")
    assert dict(made.values) == {"time": 20, "size": 20.0}
    assert made("bread") == "bread for 20"
    assert made.partial()("cake") == "cake for 20"


def test_a_plain_name_is_a_call_with_defaults():
    assert call(ROOM, "fry", "main")("egg") == "egg in olive"
    assert call(ROOM, {"fry": None}, "main") == call(ROOM, "fry", "main")


def test_a_call_passes_through():
    made = Call(ROOM, "fry")
    assert call(ROOM, made, "main") is made


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("bakke", "main: there is no 'bakke'; did you mean 'bake'?"),
        ("salt", "main: there is no 'salt'; choose one of bake, fry"),
        ("bake", "main: bake.time: is missing: write time: a whole number"),
        ({"bake": {"tyme": 3}}, "main: bake: there is no 'tyme'; did you mean 'time'?"),
        ({"bake": {"time": "long"}}, "main: bake.time: long must be a whole number"),
        ({"bake": {"time": 3, "size": 2}}, "main: bake.size: 2 is not a length: write a number and one of A"),
        ({"bake": {"time": 3, "tins": ["1 nm", 2]}}, "main: bake.tins"),
        ({"fry": {"oil": "palm"}}, "main: fry.oil: palm is not a choice: write 'olive' or 'nut'"),
        ({"bake": 3}, "main: bake: 3 needs the name of its setting: write {bake: {time: 3}}"),
        ([{"fry": 3}], "must be a name, or {name: {setting: value}}"),
        ({"fry": {}, "bake": {}}, "must be a name, or {name: {setting: value}}"),
        ({}, "main: {} must be a name"),
        (3, "main: 3 must be a name"),
        ({"fry": {}, "start": 0}, "main.start: 0 must be a whole number of epochs from 1 up"),
        ({"fry": {}, "every": True}, "main.every: True must be a whole number of epochs from 1 up"),
        ({"fry": {}, "stop": "2"}, "main.stop: 2 must be a whole number"),
    ],
)
def test_a_node_that_cannot_be_called_is_one_sentence(node, said):
    with pytest.raises(BadInput) as caught:
        call(ROOM, node, "main")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_times_stand_beside_the_call():
    made = call(ROOM, {"fry": {}, "start": 5, "every": 2}, "main")
    assert made.when == {"start": 5, "every": 2}
    assert made.to_full_tree() == {"fry": {"oil": "olive", "book": None}, "start": 5, "every": 2}


def test_resolving_writes_units_defaults_and_paths():
    tree = {"bake": {"time": 3, "size": "12.5 A", "tins": ["1 nm", 0]}}
    made = call(ROOM, tree, "main")
    assert made.to_full_tree() == {"bake": {"time": 3, "size": "1.25 nm", "tins": ["1 nm", 0]}}
    assert call(ROOM, made.to_full_tree(), "main") == made
    assert call(ROOM, {"fry": {"book": "a/b.txt"}}, "m").to_full_tree()["fry"]["book"] == str(Path("a/b.txt"))


def test_one_call_may_stand_where_several_can():
    assert [c.name for c in Meal.of({"sides": "fry"}).sides] == ["fry"]
    made = Meal.of({"sides": ["fry", {"bake": {"time": 1}}]})
    assert [c.name for c in made.sides] == ["fry", "bake"]
    with pytest.raises(BadInput, match=r"sides\[1\]: there is no 'boil'"):
        Meal.of({"sides": ["fry", "boil"]})


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"mein": "fry"}, "parameter file: there is no 'mein'; did you mean 'main'?"),
        ({"main": None}, "main: is empty: write one of bake, fry, or leave it out"),
        ({"guests": 0}, "guests: 0 must be at least 1"),
        ({"guests": "many"}, "guests: many must be a whole number"),
        ({"notes": 3}, "notes: 3 must hold 'name: value' lines"),
        ([1], "parameter file: [1] must hold 'name: value' lines"),
        (None, "parameter file: must hold 'name: value' lines"),
    ],
)
def test_a_tree_that_is_no_recipe_is_one_sentence(tree, said):
    with pytest.raises(BadInput) as caught:
        Meal.of(tree)
    assert str(caught.value) == said


def test_a_call_that_may_be_left_out_may_be_empty():
    assert Meal.of({"extra": None}).extra is None


def test_a_recipe_repeats_itself():
    made = Meal.of({"main": {"bake": {"time": 3}}, "sides": ["fry"], "notes": {"a": {"b": 1}}})
    assert Meal.of(made.to_full_tree()).to_full_tree() == made.to_full_tree()
    assert Meal.of(made.to_tree()) == made


def test_a_recipe_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Meal.of({}).guests = 3


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"main.bake.time": 5}, Call(ROOM, "bake", {"time": 5})),
        ({"main.bake": {"time": 5}}, Call(ROOM, "bake", {"time": 5})),
        ({"main": {"bake": {"time": 5}}}, Call(ROOM, "bake", {"time": 5})),
        ({"main.fry.oil": "nut"}, Call(ROOM, "fry", {"oil": "nut"})),
        ({"main.bake.time": 5, "main.bake.size": "1 nm"}, Call(ROOM, "bake", {"time": 5, "size": 10.0})),
    ],
)
def test_a_setting_is_put_where_the_file_has_it(settings, wanted):
    assert Meal.of({}).with_settings(settings).main == wanted


def test_putting_inside_a_list_is_refused():
    with pytest.raises(BadInput, match="sides is a list: set it whole"):
        Meal.of({"sides": ["fry"]}).with_settings({"sides.fry.oil": "nut"})


def test_putting_into_a_plain_mapping_keeps_the_rest():
    assert Meal.of({"notes": {"a": 1}}).with_settings({"notes.b.c": 2}).notes == {"a": 1, "b": {"c": 2}}


def test_yaml_keeps_order_and_letters(tmp_path):
    tree = {"z": "5 Å", "a": [1, 2], "m": {"µ": None}}
    (tmp_path / "a.yaml").write_text(to_yaml(tree), encoding="utf-8")
    assert load_yaml(tmp_path / "a.yaml") == tree
    assert list(load_yaml(tmp_path / "a.yaml")) == list(tree)


def test_a_missing_parameter_file_is_said(tmp_path):
    with pytest.raises(BadInput, match="cannot be read: is the name right"):
        load_yaml(tmp_path / "none.yaml")


def test_a_dimension_is_found_inside_a_union(room):
    def boil(dough: str, /, *, depth: Length | None = None, pot: Annotated[int, "x"] = 1) -> str:
        return dough

    room.boil = boil
    room.__all__ = [*room.__all__, "boil"]
    made = call(ROOM, {"boil": {"depth": "3 nm"}}, "main")
    assert made.values == {"depth": 30.0}
    assert made.to_full_tree() == {"boil": {"depth": "3 nm", "pot": 1}}


@renamed_knobs(pace="rate", first="pair[0]", second="pair[1]", less=("rate", operator.neg))
def renamed(base, /, *, rate: float = 1.0, pair: tuple[int, int] = (3, 4)):
    """Knobs with old names."""
    return base, rate, pair


class TestRenamedKnobs:
    def test_the_signature_is_that_of_today(self):
        assert list(inspect.signature(renamed).parameters) == ["base", "rate", "pair"]
        assert targets(renamed) == {"pace": "rate", "first": "pair[0]", "second": "pair[1]", "less": "rate"}

    def test_names_of_today_pass_in_silence(self):
        assert renamed(0, rate=2.0, pair=(1, 2)) == (0, 2.0, (1, 2))

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"pace": 2.0}, (0, 2.0, (3, 4))),
            ({"first": 9}, (0, 1.0, (9, 4))),
            ({"first": 9, "second": 8}, (0, 1.0, (9, 8))),
            ({"pair": (1, 2), "second": 8}, (0, 1.0, (1, 8))),
            ({"less": 2.0}, (0, -2.0, (3, 4))),
        ],
    )
    def test_old_names_mean_the_same_with_a_warning(self, given, expected):
        with pytest.warns(DeprecationWarning, match="is now"):
            assert renamed(0, **given) == expected

    def test_a_parameter_file_is_read_by_the_names_of_today(self, caplog):
        read = call("phaseloom.fitting.optimizers", {"adam": {"memory": 0.5}}, "optimizer")
        assert read.values == {"betas": (0.9, 0.5)}
        assert "optimizer: adam.memory is now betas[1]" in caplog.text

    @pytest.mark.parametrize("knob", [{"adafactor": {"memory": "much"}}, {"adam": {"momentum": "much"}}])
    def test_an_old_knob_of_the_wrong_kind_is_a_sentence(self, knob):
        with pytest.raises(BadInput, match="optimizer: ada"):
            call("phaseloom.fitting.optimizers", knob, "optimizer")


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        ({"fly": True}, "fly"),
        ({"epochs": False}, "epochs"),
        ({"object": {"pixels": {"slices": True}}}, "object: pixels.slices"),
        ({"detector": {"counting": {"blur": True}}}, "detector: counting.blur"),
    ],
)
def test_true_and_false_are_no_numbers(tree, place):
    with pytest.raises(BadInput, match=f"^{place}: (True|False) must be a (whole )?number, not one of yes"):
        Reconstruct.of({"file": "a.npy", **tree})


def test_true_and_false_are_taken_where_they_are_meant():
    recipe = Reconstruct.of({"file": "a.npy", "axial": False, "detector": {"counting": {"area": True}}})
    assert recipe.axial is False
    assert recipe.detector.values == {"area": True}


def test_settings_are_not_changed_by_later_ones():
    rates = {"object": 1.0}
    changed = Reconstruct.of({}).with_settings({"rates": rates, "rates.probe": 0.5})
    assert changed.rate_of("probe") == 0.5
    assert rates == {"object": 1.0}
