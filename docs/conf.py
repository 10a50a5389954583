"""Settings of the documentation site; ``make docs`` builds it without network."""

from __future__ import annotations

import sfumato

project = "sfumato"
version = release = sfumato.__version__
copyright = "the sfumato authors, Apache-2.0"
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# the pages also stand in the repository, where their links to code and recipes lead
suppress_warnings = ["myst.xref_missing", "myst.xref_ambiguous"]
autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
exclude_patterns = ["_build"]
# the examples run while the site is built, and their output and pictures become pages
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"own_pictures\.py",  # a command that draws training pictures
    "abort_on_example_error": True,
    "doc_module": ("sfumato",),
    "backreferences_dir": "generated/examples",
    "download_all_examples": False,
    "thumbnail_size": (280, 196),
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}
html_theme = "furo"
html_title = "sfumato"
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#8a4b1f", "color-brand-content": "#8a4b1f"},
    "dark_css_variables": {"color-brand-primary": "#d99a63", "color-brand-content": "#d99a63"},
}
