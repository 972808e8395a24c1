"""The reference has every public name, verb, option, section and choice; each name once."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from phaseloom import cli
from phaseloom.cli import describe
from phaseloom.spec import names

ROOT = Path(__file__).parents[2]
STUBS = sorted((ROOT / "src").rglob("__init__.pyi"))


@pytest.fixture(scope="module")
def writer() -> Any:
    """The module that writes the pages of the reference."""
    for extra in ("optuna", "sklearn", "skimage"):
        pytest.importorskip(extra)
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "docs/_ext/reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def documented(writer) -> list[str]:
    text = "\n".join(writer.api_pages().values())
    return re.findall(r"^\.\. (?:autoclass|autofunction|py:data):: (\S+)", text, re.MULTILINE)


def resolve(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_name_is_documented_once(documented):
    assert len(documented) == len(set(documented)) > 800
    objects = [resolve(path) for path in documented]
    own = [id(one) for one in objects if inspect.isclass(one) or inspect.isroutine(one)]
    assert len(own) == len(set(own))


@pytest.mark.parametrize("stub", STUBS, ids=lambda stub: stub.parent.name)
def test_every_name_of_a_front_door_is_in_the_reference(stub, documented, writer):
    package = importlib.import_module(".".join(stub.parent.relative_to(ROOT / "src").parts))
    known, modules = {id(resolve(path)) for path in documented}, set(writer.public_modules())
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.ismodule(value):
            assert value.__name__ in modules, name
        elif inspect.isclass(value) or inspect.isroutine(value):
            assert id(value) in known, name
        else:
            assert f"{package.__name__}.{name}" in documented, name


def test_no_page_names_an_address_in_memory(writer):
    for page, text in writer.api_pages().items():
        assert " at 0x" not in text, page


def test_members_that_pydantic_adds_are_left_out(writer):
    """Each settings class had its `model_config`, with a sentence and a link that are pydantic's own."""
    text = "\n".join(writer.api_pages().values())
    assert (
        text.count("   :members:\n") == text.count("   :members:\n   :exclude-members: model_config\n") > 100
    )


def test_the_shortest_path_is_taken(documented):
    assert "phaseloom.Scan4D" in documented
    assert "phaseloom.data.scan.Scan4D" not in documented


def test_every_verb_and_option_is_in_the_page_of_the_command_line(writer):
    page = writer.command_line_page()
    waiting: list[tuple[str, Any]] = [("phaseloom", typer.main.get_command(cli.app))]
    count = 0
    while waiting:
        path, command = waiting.pop()
        section = page.split(f" `{path}`\n")[1].split("\n## ")[0].split("\n### ")[0]
        for one in command.params:
            if one.name != "help" and not getattr(one, "hidden", False):
                count += 1
                shown = (
                    one.opts[-1]
                    if one.opts and one.opts[0].startswith("-")
                    else (one.metavar or one.name).upper()
                )
                assert f"`{shown}`" in section, (path, shown)
        waiting += [
            (f"{path} {name}", one)
            for name, one in getattr(command, "commands", {}).items()
            if not one.hidden
        ]
    assert count > 100


def test_every_section_and_choice_is_in_the_pages_of_parameter_files(writer):
    pages = writer.parameter_files_pages()
    for kind in describe.RECIPE_HOMES:
        section = pages["parameter-files"].split(f"\n## {kind}\n")[1].split("\n## ")[0]
        for key, info in describe.recipe_of(kind).model_fields.items():
            assert key == "found" or f"`{key}`" in section, (kind, key)
            room = (info.json_schema_extra or {}).get("room")  # type: ignore[union-attr]
            for name in names(str(room)) if room else ():
                (page,) = (text for text in pages.values() if f"(`{room}`)\n" in text)
                assert f"\n## `{name}`\n" in page


def test_every_page_is_in_the_navigation(writer):
    listed = {"index"}
    for part in writer.PARTS:
        folder = f"{part.rpartition('/')[0]}/" if "/" in part else ""
        text = (ROOT / "docs" / f"{part}.md").read_text(encoding="utf-8")
        listed |= {f"{folder}{first or second}" for first, second, *_ in writer.LINK.findall(text)}
    pages = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    built = {page for page in pages if page.split("/")[0] in ("_build", "api", "gallery")}
    assert pages - built <= listed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_for_nothing(tmp_path):
    pytest.importorskip("sphinx_gallery")
    for extension in ("myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(extension)
    import subprocess

    options = ["-b", "html", "-W", "--keep-going", "-q", "-D", "sphinx_gallery_conf.plot_gallery=0"]
    site = tmp_path / "site"
    call = [
        sys.executable,
        "-m",
        "sphinx",
        *options,
        "-d",
        str(tmp_path / "trees"),
        str(ROOT / "docs"),
        str(site),
    ]
    done = subprocess.run(call, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(site.rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r"<(?:script|img|iframe)[^>]*src=\"(?:https?:)?//[^\"]*", text)
        asked += re.findall(r"<link[^>]*href=\"(?:https?:)?//[^\"]*", text)
        assert not asked, page
        assert len(text) < 500_000, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
