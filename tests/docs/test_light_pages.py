"""Pages of the site are light, whole, and searched without a server."""

import base64
import gzip
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FIXED_WEIGHT = 300_000
"""Bytes of a page of one sentence with all that it loads: what the theme costs every page."""


def load_extension() -> Any:
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("light_pages", DOCS / "_ext" / "light_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


light = load_extension()

CONF = f"""
__file__ = {str(DOCS / "conf.py")!r}
from pathlib import Path
exec(Path(__file__).read_text())
extensions = ["myst_parser", "light_pages"]
html_static_path = [{str(DOCS / "_static")!r}]
exclude_patterns = ["out"]
"""


def build(folder: Path, *settings: str) -> tuple[int, str]:
    """Build the site of a folder as `make docs` does; exit code, and warnings."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "--no-color"]
    done = subprocess.run(
        [*command, *settings, str(folder), str(folder / "out")], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A site of two pages with the settings of ours."""
    for extra in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(extra)
    folder = tmp_path_factory.mktemp("site")
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text("# Start\n\nOf `defocus` and modes.\n\n```{toctree}\nother\n```\n")
    (folder / "other.md").write_text(
        "# Other\n\nA caustic, `a b`.\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n"
    )
    assert build(folder) == (0, "")
    return folder


@pytest.mark.medium
def test_what_every_page_costs(site):
    weights = light.weigh(site / "out")
    assert set(weights) == {"index.html", "other.html", "search.html"}
    assert max(weights.values()) < FIXED_WEIGHT
    assert min(weights.values()) > 100_000  # the style sheets and scripts were found and counted


@pytest.mark.medium
def test_what_a_page_loads_is_there_and_from_the_site(site):
    for page in (site / "out").glob("*.html"):
        text = page.read_text()
        assert "//fonts" not in text
        loaded = re.findall(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="([^"#?]+)', text)
        assert not [name for name in loaded if re.match(r"(?:https?:)?//", name)]
        assert all((page.parent / name).exists() for name in loaded)
        assert ("searchindex.js" in text) == (page.name == "search.html")


@pytest.mark.medium
def test_every_icon_is_drawn(site):
    drawn = set(re.findall(r"\.(fa-[a-z-]+) \{ --icon", (DOCS / "_static" / "site.css").read_text()))
    pages = " ".join(page.read_text() for page in (site / "out").glob("*.html"))
    used = {name for names in re.findall(r'class="([^"]*fa-solid[^"]*)"', pages) for name in names.split()}
    used = {name for name in used if name.startswith("fa-")} - {"fa-solid", "fa-lg"}
    assert len(used) > 5
    assert used <= drawn


@pytest.mark.medium
def test_no_sign_is_a_letter_of_a_font_that_is_not_there(site):
    own = (DOCS / "_static" / "site.css").read_text()
    theme = (site / "out" / "_static" / "styles" / "pydata-sphinx-theme.css").read_text()
    signs = set(re.findall(r"content:var\((--pst-[\w-]+)\)", theme))
    signs = {sign for sign in signs if not sign.startswith("--pst-icon-admonition")}  # ended by one rule
    assert "--pst-breadcrumb-divider" in signs
    assert {sign for sign in signs if f"{sign}:" not in own} == set()


@pytest.mark.medium
def test_words_of_code_are_kept(site):
    text = (site / "out" / "other.html").read_text()
    assert '<code class="literal">a b</code>' in re.sub(r"</?span[^>]*>", "", text)
    assert '<span class="n">x</span> <span class="o">=</span> <span class="mi">1</span>' in text


@pytest.mark.medium
def test_what_stands_without_a_class_has_the_colour_of_the_text(site):
    sheet = (site / "out" / "_static" / "pygments.css").read_text()
    for theme in ("light", "dark"):
        rule = rf'html\[data-theme="{theme}"\] \.highlight ?(\S*) {{[^}}]*\bcolor: ([^; }}]+)'
        colors = dict(re.findall(rule, sheet))
        assert colors[".c"] != colors[""] == colors[".p"] == colors[".w"]


@pytest.mark.medium
def test_a_page_above_the_limit_fails_a_strict_build(site, tmp_path):
    shutil.copytree(site, tmp_path / "copy", ignore=shutil.ignore_patterns("out"))
    code, said = build(tmp_path / "copy", "-D", "most_bytes_of_a_page=150000")
    assert code == 1
    assert "other.html weighs" in said


def unpack(site: Path) -> dict[str, Any]:
    packed = re.search(r'atob\("([^"]+)"\)', (site / "out" / "searchindex.js").read_text())
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


@pytest.mark.medium
def test_a_build_of_one_page_keeps_the_words_of_the_others(site, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(site, folder)
    (folder / "other.md").write_text("# Other\n\nAn eigenvalue.\n")
    assert build(folder) == (0, "")
    words = unpack(folder)["terms"]
    assert {"defocus", "eigenvalu"} <= set(words)
    assert not words.get("caustic")


def test_no_page_has_the_name_of_one_that_the_site_makes():
    """`docs/search.md` had been replaced by the page of the search."""
    made = {"search", "genindex", "py-modindex"}
    assert not made & {page.stem for page in DOCS.glob("*.md")}


def test_rules_that_nothing_uses_are_cut():
    keep = light.keep_used_rules
    assert keep(".a { top: 0 }\n.b { top: 0 }", ["a"]) == ".a{top:0}"
    assert keep(".a .b, .a > p , p { top: 0 }", ["a"]) == ".a > p,p{top:0}"
    assert keep("@media (x) { .b { top: 0 } } p { top: 0 }", []) == "p{top:0}"
    assert keep("@media (x) { .a { top: 0 } }", ["a"]) == "@media (x) {.a{top:0}}"
    assert keep("@font-face { src: url(a.woff2) } p { top: 0 }", []) == "p{top:0}"


def test_what_a_rule_only_excludes_need_not_be_there():
    rule = "p:not(.gone){top:0}"
    assert light.keep_used_rules(rule, []) == rule
    rule = ":is(.a,.b) i{top:0}"
    assert light.keep_used_rules(rule, []) == rule
    rule = 'a[href$=".png"]{top:0}'
    assert light.keep_used_rules(rule, []) == rule


def test_keyframes_are_kept():
    rule = "@keyframes turn{from{top:0}to{top:1px}}"
    assert light.keep_used_rules(rule, []) == rule


@pytest.fixture
def page(site, chromium) -> Any:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda request: page.requests.append(request.url))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on(
        "console", lambda message: page.complaints.append(message.text) if message.type == "error" else None
    )
    yield page
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize(("word", "title"), [("caustic", "Other"), ("defocus", "Start")])
def test_words_are_found_without_a_server(site, page, word, title):
    page.goto((site / "out" / "other.html").as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type(word)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").first.inner_text() == title
    assert "found one page" in page.locator("#search-results").inner_text()
    page.locator("#search-results li a").first.click()
    page.wait_for_selector(f"h1:has-text('{title}')")
    assert page.locator(".highlighted").first.inner_text().lower() == word


@pytest.mark.slow
def test_light_and_dark_and_a_narrow_window(site, page):
    page.goto((site / "out" / "index.html").as_uri())
    colours = set()
    for mode in ("dark", "light"):
        page.locator(".theme-switch-button").first.click()
        page.locator(f".dropdown-menu.show button[data-mode='{mode}']").click()
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    icon = page.locator(".search-button .fa-solid, .search-button-field .fa-solid").first
    assert "svg" in icon.evaluate("one => getComputedStyle(one).maskImage")
    page.set_viewport_size({"width": 420, "height": 800})
    page.locator(".pst-navbar-icon.primary-toggle").first.click()
    page.wait_for_selector("dialog#pst-primary-sidebar-modal[open]")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
