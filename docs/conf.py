"""Sphinx builds the site from docs/, results/ and the docstrings: ``make docs``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent)]

import sparsejax  # noqa: E402

project = "sparsejax"
author = "The sparsejax authors"
release = sparsejax.__version__
root_doc = "index"
exclude_patterns = ["site"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "myst_parser",
    "local_mathjax",
    "repository_pages",
    "reference_pages",
]

# Pages: the same Markdown is read on the site and in the repository.
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

# Docstrings: Google's sections, equations in reST.
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"PyTree": "PyTree"}
autosummary_generate = False
default_role = "any_name"
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = "sparsejax"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
