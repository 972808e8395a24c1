"""Make pages light once they are written: what they load is cut to what they use.

The theme brings all of Bootstrap and the fonts of Font Awesome, Sphinx wraps every word of code in an element of
its own, and every page loads the index of the search, which the search page alone needs. There it is compressed:
browsers since 2023 unpack it without a server. Then pages are weighed: one above `MOST` is a warning, which fails
a strict build.
"""

import base64
import gzip
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sphinx.util import logging

log = logging.getLogger(__name__)

MOST = 500_000
"""Bytes of a page with its style sheets and scripts, without images."""

OF_SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:searchtools|language_data|searchindex|sg-tags)\.js[^"]*"[^>]*></script>'
)
OF_ICONS = re.compile(r"\s*<script[^>]*fontawesome\.js[^>]*></script>")
CODE_WORD = re.compile(r'<span class="pre">([^<]*)</span>')
PLAIN_WORD = re.compile(r'<span class="[pw]">([^<]*)</span>')
"""Punctuation and spaces, which both styles of Pygments leave in the colour of the text."""
LOADED = re.compile(r'<(?:script|link)\b[^>]*\b(?:src|href)="([^"#?]+\.(?:css|js))[^"]*"')

INDEX = "searchindex.js"
UNPACK = """(async () => {
  const bytes = Uint8Array.from(atob("PACKED"), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  Search.setIndex(await new Response(unpacked).json());
})();
"""

PARTS_OF_BOOTSTRAP = ("accordion", "carousel", "modal", "offcanvas", "popover", "toast")
"""Parts that its script knows; they count where a page has one."""

RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
CLASS = re.compile(r"\.(-?[A-Za-z_][\w-]*)")


def setup(app: Any) -> dict[str, Any]:
    """Register what happens after the build."""
    app.add_config_value("most_bytes_of_a_page", MOST, "", [int])
    app.connect("builder-inited", lambda app: _copy(_kept_index(app), Path(app.outdir) / INDEX))
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True}


def _finish(app: Any, problem: Exception | None) -> None:
    if problem is not None or app.builder.name != "html":
        return
    site = Path(app.outdir)
    _copy(site / INDEX, _kept_index(app))
    lighten(site)
    most = app.config.most_bytes_of_a_page
    for page, weight in weigh(site).items():
        if weight > most:
            log.warning("%s weighs %d kB: at most %d", page, weight / 1000, most / 1000)


def _kept_index(app: Any) -> Path:
    """The index as Sphinx wrote it, from which it goes on when only some pages have changed."""
    return Path(app.doctreedir) / INDEX


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def lighten(site: Path, /) -> None:
    """Cut pages, style sheets and the index of the search of a site to what is used."""
    used: set[str] = set()
    named: set[str] = set()
    for page in _list_pages(site):
        text = _cut_page(page.read_text(encoding="utf-8"), is_search=page.name == "search.html")
        page.write_text(text, encoding="utf-8")
        used |= {name for names in re.findall(r'\bclass="([^"]*)"', text) for name in names.split()}
    for script in (site / "_static").rglob("*.js"):
        if script.name != "fontawesome.js":  # names of two thousand icons
            named |= set(re.findall(r"[A-Za-z_][\w-]*", script.read_text(encoding="utf-8")))
    used |= {name for name in named if not name.startswith(PARTS_OF_BOOTSTRAP)}
    used = {name for name in used if not name.startswith("fa-")}  # drawn by site.css
    for sheet in (site / "_static").rglob("*.css"):
        if sheet.name != "site.css":
            sheet.write_text(keep_used_rules(sheet.read_text(encoding="utf-8"), used), encoding="utf-8")
    index = site / INDEX
    if index.exists():
        index.write_text(_compress_index(index.read_text(encoding="utf-8")), encoding="utf-8")


def weigh(site: Path, /) -> dict[str, int]:
    """Bytes of each page with the style sheets and scripts that it loads."""
    weights = {}
    for page in _list_pages(site):
        text = page.read_text(encoding="utf-8")
        files = {(page.parent / name).resolve() for name in LOADED.findall(text) if "://" not in name}
        sizes = [file.stat().st_size for file in files if file.exists()]
        weights[str(page.relative_to(site))] = page.stat().st_size + sum(sizes)
    return weights


def _list_pages(site: Path) -> list[Path]:
    """All but templates of the theme among its files."""
    return [page for page in sorted(site.rglob("*.html")) if "_static" not in page.relative_to(site).parts]


def _cut_page(text: str, *, is_search: bool) -> str:
    text = OF_ICONS.sub("", text if is_search else OF_SEARCH.sub("", text))
    text = PLAIN_WORD.sub(r"\1", CODE_WORD.sub(r"\1", text))
    return text.replace(' class="docutils literal notranslate"', ' class="literal"')


def _compress_index(text: str) -> str:
    """A script that unpacks the index of the search and hands it over, as the script it stands for does at once."""
    packed = base64.b64encode(gzip.compress(text[text.index("(") + 1 : text.rindex(")")].encode(), mtime=0))
    return UNPACK.replace("PACKED", packed.decode())


def keep_used_rules(sheet: str, used: Iterable[str], /) -> str:
    """A style sheet without the selectors that need a class which nothing has.

    Example:
        >>> keep_used_rules(".a, .b > p { color: red } @media print { .b { top: 0 } }", ["a"])
        '.a{color:red}'
    """
    names = set(used)

    def keep(rule: re.Match[str]) -> str:
        if "@font-face" in rule[1]:  # no font is fetched
            return ""
        body = re.sub(r"\s*([;:,])\s*", r"\1", rule[2].strip())
        if "@" in rule[1]:
            return f"{rule[1].strip()}{{{body}}}"
        parts = [" ".join(part.split()) for part in _split_selectors(rule[1])]
        kept = [part for part in parts if set(CLASS.findall(_without_brackets(part))) <= names]
        return f"{','.join(kept)}{{{body}}}" if kept and body else ""

    sheet = RULE.sub(keep, re.sub(r"/\*(?!!).*?\*/", "", sheet, flags=re.DOTALL))
    for _ in range(2):  # what is empty now, and what holds nothing else
        sheet = re.sub(r"@(?:media|supports|layer)[^{};]*\{\s*\}", "", sheet)
    return re.sub(r"\s*}\s*", "}", sheet).strip()


def _split_selectors(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _without_brackets(selector: str) -> str:
    """Of ``:not(.a)``, ``:is(.a, .b)`` and ``[href$=".png"]`` nothing need be there."""
    while (shorter := re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "", selector)) != selector:
        selector = shorter
    return selector
