"""The page on formats is what the readers say of themselves."""

from pathlib import Path

import pytest

from phaseloom.data import format_table, formats
from phaseloom.data.formats.header import About

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


def test_the_page_is_up_to_date() -> None:
    said = "run: python -c \"from phaseloom.data import format_table as t; t.write('docs/formats.md')\""
    assert PAGE.read_text(encoding="utf-8") == format_table.page(), said


@pytest.mark.parametrize("name", formats.__all__)
def test_every_format_is_in_the_table(name: str) -> None:
    assert isinstance(getattr(formats, name).ABOUT, About)
    assert f"| `{name}` |" in format_table.page()


def test_every_format_that_is_asked_can_answer() -> None:
    assert all(callable(getattr(formats, name).knows) for name in formats.ASKED)
    assert set(formats.ASKED) <= set(formats.__all__)


def test_the_page_can_be_written(tmp_path: Path) -> None:
    format_table.write(tmp_path / "formats.md")
    assert (tmp_path / "formats.md").read_text(encoding="utf-8") == format_table.page()
