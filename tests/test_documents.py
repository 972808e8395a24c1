"""Parameter files as text: what YAML would change, lose or run without a word is refused."""

import json
from pathlib import Path

import pytest

from phaseloom.documents import load_yaml, parse_json, parse_yaml, to_yaml
from phaseloom.errors import BadInput

REFUSED = {
    "a: 1\na: 2": "line 2: a stands twice, in line 1 too",
    "{a: 1, b: 2, a: 3}": "line 1: a stands twice",
    "a: [{b: 1, b: 2}]": "line 1: b stands twice",
    "a: !!python/object/apply:os.system [ls]": "line 1: !!python/object/apply:os.system is a tag",
    "a: !!str 5": "line 1: !!str is a tag",
    "a: !!binary aGk=": "line 1: !!binary is a tag",
    "a: !own 5": "line 1: !own is a tag",
    "a: &a [*a]": "holds itself",
    "a: &a {b: *a}": "holds itself",
    "a: " + "[" * 900 + "]" * 900: "lists in lists",
    "a: " + "[" * 60 + "]" * 60: "lists in lists",
    '{a: &a ["lol","lol","lol","lol","lol","lol","lol","lol","lol"],'
    + ",".join(f" b{n}: &b{n} [{','.join(['*a' if n == 0 else f'*b{n - 1}'] * 9)}]" for n in range(8))
    + "}": "holds more than",
    'a: "x\\0y"': "holds a character that no file keeps",
    'a: "\\ud800"': "holds a character that no file keeps",
    'a: ["\\ud800"]': "holds a character that no file keeps",
    '{"\\ud800": 1}': "holds a character that no file keeps",
    f"a: {'9' * 5000}": "is not YAML",
    "a: 2026-13-45": "is not YAML",
    "a: [1": "is not YAML (line 1)",
    "? [a, b]\n: 1": "is not YAML",
    "a: *b": "is not YAML",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items(), ids=[text[:30] for text in REFUSED])
def test_what_yaml_would_lose_or_run_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    for read in (lambda: load_yaml(path), lambda: parse_yaml(text, str(path))):
        with pytest.raises(BadInput) as problem:
            read()
        assert said in str(problem.value)
        assert "run.yaml" in str(problem.value)


def test_a_number_of_one_version_of_yaml_is_the_text_that_it_looks_like() -> None:
    assert parse_yaml("{a: 1:30, b: 010, c: 12:30:45.5, d: 90}", "x") == {
        "a": "1:30",
        "b": "010",
        "c": "12:30:45.5",
        "d": 90,
    }


def test_references_and_merged_tables_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a", "x")["b"] == {"x": 1, "y": 2}


def test_what_is_written_reads_back() -> None:
    tree = {"a": "1:30", "b": "010", "c": [1, 2.5, None, True], "d": {"e": "µ ü"}, "f": 1e-9, "g": "1e-9"}
    assert parse_yaml(to_yaml(tree), "x") == tree


def test_a_parameter_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with path.open("wb") as file:
        file.truncate(5_000_000_000)
    with pytest.raises(BadInput, match="is too large for a parameter file"):
        load_yaml(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{", "[1,", '{"a": 1, "a": 2}', "9" * 5000, "[" * 60 + "]" * 60]
)
def test_json_that_is_damaged_or_ambiguous_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="a file"):
        parse_json(text, "a file")


def test_json_is_read() -> None:
    tree = {"a": [1, None, {"b": "c"}], "d": 1.5}
    assert parse_json(json.dumps(tree), "a file") == tree
