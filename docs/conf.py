"""Settings of the documentation site; `make docs` builds it. The pages of the reference are written first."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "src"))
sys.path.insert(0, str(DOCS / "_ext"))

import matplotlib  # noqa: E402

matplotlib.use("Agg")

from phaseloom.version import __version__  # noqa: E402

project = "Phaseloom"
copyright = "The Phaseloom developers"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "reference_pages",
    "light_pages",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_ext", "notebooks", "gallery/*.ipynb"]
exclude_patterns += ["sg_execution_times.rst", "gallery/sg_execution_times.rst"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.header", "misc.highlighting_failure", "config.cache", "ref.python"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Example"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
add_module_names = False
toc_object_entries = False
default_role = "literal"

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "remove_config_comments": True,
    "capture_repr": (),  # what examples print, not what their last line is
    "min_reported_time": 1e9,
    "within_subsection_order": "FileNameSortKey",
}

html_theme = "pydata_sphinx_theme"
html_title = "Phaseloom"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # pages that are opened as files cannot be fetched
html_context = {"default_mode": "auto"}
html_use_index = False  # half a megabyte; the search finds names
html_theme_options = {
    "logo": {"text": "Phaseloom"},
    "navbar_align": "left",
    "search_as_you_type": False,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
}
html_sidebars = {"index": []}
