"""Fenced blocks of the pages, and what the pages say of those that are not run.

A comment before a block says why no test runs it, or which one does:

    <!-- not run: needs the network -->
    <!-- run by tests/docs/test_tutorial.py -->

and one behind a Python block is an expression that has to be true of what the block made:

    <!-- check: phase.ndim == 2 -->
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(
    r"(?:^<!-- (?P<how>not run: |run by )(?P<why>[^>]+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```\n?"
    r"(?:\n?^<!-- check: (?P<check>.+?) -->$)?",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path from the root of the project.
        line: of the page, where its text begins.
        language: behind the fence.
        text: what is shown.
        not_run: why no test runs it; empty: one does.
        run_by: the test that runs it, where it is not the common one.
        check: expression that is true of the names that the block leaves.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    run_by: str = ""
    check: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """Page and line."""
        return f"{self.page.removeprefix('docs/')}-{self.line}"


def list_blocks(page: Path) -> list[Block]:
    """Every block of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        why = match["why"] or ""
        found.append(
            Block(
                page=str(page.relative_to(ROOT)),
                line=text[: match.start("text")].count("\n") + 1,
                language=match["language"],
                text=match["text"],
                not_run=why if match["how"] == "not run: " else "",
                run_by=why if match["how"] == "run by " else "",
                check=match["check"] or "",
            )
        )
    return found


ALL = [block for page in PAGES for block in list_blocks(page)]
