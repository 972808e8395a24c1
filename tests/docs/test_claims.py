"""Claims name what proves them, and numbers that are quoted from results equal them."""

import ast
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest

from benchmarks import quotes

ROOT = Path(__file__).parents[2]
PAGES = quotes.list_pages()
CLAIMS = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| ").split(" | ") for line in CLAIMS.splitlines() if re.match(r"\| (?!claim|what|-)", line)
]
PROOF = re.compile(r"`((?:tests|benchmarks/results)/[^`]+)`")


@lru_cache
def list_tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_claims_are_found():
    assert len(ROWS) > 35
    assert {len(row) for row in ROWS} == {2}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_claim_names_a_test_or_a_file_that_is_there(row):
    proofs = PROOF.findall(row[1])
    assert proofs, row
    assert re.sub(r"`[^`]+`[, ]*", "", row[1]).strip() == ""
    for proof in proofs:
        path, _, name = proof.partition("::")
        assert (ROOT / path).is_file(), proof
        assert not path.startswith("tests/") or name in list_tests(ROOT / path), proof


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_a_claim_with_a_decimal_reads_it_from_its_file(row):
    text = quotes.QUOTE.sub("", row[0])
    named = {f"benchmarks/results/{name}.json" for _, name, _ in quotes.QUOTE.findall(row[0])}
    assert named <= set(PROOF.findall(row[1]))
    allowed = {"0.10", "0.06", "0.3", "0.7"} if "results" in row[1] else set()
    assert set(re.findall(r"\d+\.\d+", re.sub(r"<!--.*?-->", "", text))) <= allowed


@pytest.mark.parametrize("page", [*PAGES, *quotes.list_decisions()], ids=lambda page: page.name)
def test_quoted_numbers_are_those_of_the_files(page):
    text = page.read_text(encoding="utf-8")
    assert quotes.regenerate(text) == text
    named = [
        name for name in re.findall(r"<!-- (\S+) \S", text) if (quotes.RESULTS / f"{name}.json").exists()
    ]
    assert len(named) == len(quotes.QUOTE.findall(text))


def list_typed_decimals(text: str) -> list[str]:
    """Decimals in the rows of tables that no file is named behind, outside of code."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    rows = re.findall(r"(?<=\n)\|(?! *-).*(?=\n)(?!\n\| ?-)", text)
    bare = [re.sub(r"`[^`]*`|<!--.*?-->", "", quotes.QUOTE.sub("", row)) for row in rows]
    return [number for row in bare for number in re.findall(r"(?<![\w.])\d[\d,]*\.\d+(?![\w.])", row)]


TYPED = {
    "README": 4,
    "autoencoder": 14,
    "calibration": 14,
    "cdtools": 1,
    "claims": 3,
    "direct": 15,
    "engines": 7,
    "files": 1,
    "first": 2,
    "howto-near-field": 11,
    "howto-slices-modes": 9,
    "hyperparameters": 1,
    "learned": 27,
    "parameters": 3,
    "restoration": 4,
    "rpi": 27,
    "scaling": 3,
    "uncertainty": 3,
}
"""Decimals of tables that are typed: settings, limits, versions, and measurements without a file."""


def test_no_further_number_is_typed_into_a_table():
    """A number that was measured is quoted from its file; where one is, the count here gets smaller."""
    pages = [page for page in PAGES if page.parent.name != "benchmarks"]  # its table says what programs do
    counts = {page.stem: len(list_typed_decimals(page.read_text(encoding="utf-8"))) for page in pages}
    written_by_programs = ("damaged", "formats")
    assert {page: n for page, n in counts.items() if n and page not in written_by_programs} == TYPED


def test_a_typed_number_is_found():
    table = "\n| a | 0.1 |\n|---|---|\n| b 7.5 | 0.22<!-- file place --> |\n| `c: 0.3` | 1.3 |\n"
    assert list_typed_decimals(table) == ["7.5", "1.3"]


def test_the_most_laden_pages_quote():
    counts = {page.stem: len(quotes.QUOTE.findall(page.read_text(encoding="utf-8"))) for page in PAGES}
    for page in ("README", "axial", "direct", "learned", "restoration", "uncertainty", "scaling", "engines"):
        assert counts[page] >= 8, page
    assert sum(counts.values()) > 850


@pytest.mark.parametrize(
    "row", [row for row in ROWS if "](" in row[0] and "results" in row[1]], ids=lambda row: row[0][:40]
)
def test_a_headline_number_stands_on_its_page_too(row):
    pages = re.findall(r"\]\(([^)#]+)", row[0])
    there = "".join(
        re.sub(r"<!--.*?-->", "", (ROOT / "docs" / page).read_text(encoding="utf-8")) for page in pages
    )
    if "install.md" in pages:  # rounded to a factor
        return
    for number, _, _ in quotes.QUOTE.findall(row[0]):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d])", there), number


def test_every_decimal_of_the_races_in_the_readme_is_quoted():
    table = quotes.ROOT.joinpath("README.md").read_text(encoding="utf-8").split("| | Phaseloom | phaser")[1]
    rows = [
        line for line in table.split("\n\n")[0].splitlines() if re.match(r"\| (?:one|its|1e4|`thick)", line)
    ]
    assert len(rows) == 5
    for row in rows:
        cells = row.split(" | ", 1)[1]
        bare = re.sub(r"<!--.*?-->", "", quotes.QUOTE.sub("", cells))
        assert re.findall(r"\d+\.\d+", bare) == []
        assert len(quotes.QUOTE.findall(cells)) >= 3


def test_the_readme_is_one_screen_and_a_half():
    text = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(text.splitlines()) <= 95
    assert len(text) <= 6000
    pictures = re.findall(r"!\[[^]]*\]\((docs/images/[^)]+)\)", text)
    assert len(pictures) == 3
    assert all((ROOT / picture).stat().st_size < 100_000 for picture in pictures)
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(python.splitlines()) <= 10


def test_the_losses_are_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    soonest, lowest = (
        {
            name: quotes.look_up("race-2026-11-25/table", f"thick/runs/program={name}/{place}/median")
            for name in ("ours", "phaser adam", "ptyrad")
        }
        for place in ("marks/0.06/cpu_s", "rmse")
    )
    assert ("phaser is first to 0.06" in text) == (soonest["phaser adam"] < soonest["ours"])
    assert ("PtyRAD has the lowest error" in text) == (lowest["ptyrad"] < lowest["ours"])


def test_where_fresh_scans_fail_is_counted():
    rows = quotes.load("faulty-2026-11-25-fresh")["rows"]
    wrong = [row for row in rows if row["correlation"] < 0 and row["verdict"].startswith("converged")]
    assert (len(wrong), len(rows)) == (2, 12)
    rows = quotes.load("faulty-2026-11-25-judge")["rows"]
    right = [row["verdict"].split(":")[0] for row in rows if row["correlation"] >= 0.7]
    others = {row["verdict"].split(":")[0] for row in rows if row["correlation"] < 0.7}
    assert (len(rows), right.count("converged"), right.count("still falling"), len(right)) == (15, 6, 2, 8)
    assert others == {"doubtful", "wrong start"}
    assert sum(row["correlation"] < -0.4 for row in rows) == 3
    strong = quotes.load("strong-phase-2026-11-24")["rows"]
    found = {dose: [row["right"] for row in strong if row["dose"] == dose] for dose in (1e4, 1e6)}
    assert (sum(found[1e4]), len(found[1e4])) == (13, 14)
    assert (sum(found[1e6]), len(found[1e6])) == (3, 12)


@pytest.fixture
def results(tmp_path, monkeypatch):
    rows = [{"name": "a", "x": -3.0}, {"name": "b", "x": 2.04}, {"name": "b", "x": 4.0}]
    rows = [{**row, "pair": [row["x"], 1.0]} for row in rows]
    (tmp_path / "file.json").write_text(json.dumps({"rows": rows, "sum": {"big number": 12345.6}}))
    monkeypatch.setattr(quotes, "RESULTS", tmp_path)
    quotes.load.cache_clear()
    yield
    quotes.load.cache_clear()


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("rows/1/x", 2.04),
        ("rows/name=b/x/mean", 3.02),
        ("rows/x/abs/max", 4.0),
        ("rows/name=b/pair/:0/max", 4.0),
        ("rows/name=b/x/deviation", 1.385929),
        ("rows/count", 3),
        ("rows/0/x/*-100", 300),
        ("sum/big number", 12345.6),
    ],
)
def test_places_lead_to_numbers(place, value):
    assert quotes.look_up("file", place) == pytest.approx(value)


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("place", ["rows/9/x", "rows/name=c/x/mean", "rows", "nothing", "rows/0/name"])
def test_other_places_are_errors(place):
    with pytest.raises((KeyError, IndexError)):
        quotes.look_up("file", place)


@pytest.mark.usefixtures("results")
def test_numbers_are_written_with_the_digits_that_they_have():
    text = "**2.0<!-- file rows/1/x -->** and 12,340<!-- file sum/big number -->, 1 <!-- a comment -->"
    assert quotes.regenerate(text) == text.replace("12,340", "12,346")
