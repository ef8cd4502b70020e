"""How `make docs` builds the site. Nothing here, and nothing on the built pages, needs a network."""

import dataclasses
import typing

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config as Napoleon
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

from advgame.trainer.settings.schema import Config, WarmstartConfig

project = "AdvGame"
copyright = "the AdvGame authors, Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "AdvGame"
html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

# Names in annotations whose pages are elsewhere: links to them would need a network.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|collections|typing|enum|pathlib)\..*"),
    ("py:.*", r"(Tensor|Path|ProcessGroup|optional)"),
]


class Settings(SphinxDirective):
    """A table for each section of a command's config: name, type, default and meaning of every setting."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        schema = {"train": Config, "warmstart": WarmstartConfig}[self.arguments[0]]
        return list(self.sections(schema(), "", "Run", ""))

    def sections(self, defaults: typing.Any, prefix: str, title: str, doc: str) -> typing.Iterator[nodes.Node]:
        hints = typing.get_type_hints(type(defaults))
        section = nodes.section(ids=[nodes.make_id(f"settings-{self.arguments[0]}-{prefix or 'run'}")])
        section += nodes.title(text=title)
        if doc:
            section += nodes.paragraph(text=f"{doc[0].upper()}{doc[1:]}.")
        values = [(field, getattr(defaults, field.name)) for field in dataclasses.fields(defaults)]
        for field, value in values:
            if not dataclasses.is_dataclass(value):
                section += self.setting(prefix + field.name, hints[field.name], field, value)
        yield section
        for field, value in values:
            if dataclasses.is_dataclass(value):
                name = prefix + field.name
                yield from self.sections(value, f"{name}.", name, field.metadata["doc"])

    def setting(self, name: str, hint: typing.Any, field: dataclasses.Field, default: typing.Any) -> nodes.Node:
        shown = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
        item = nodes.definition_list_item("", nodes.term("", "", nodes.literal(text=f"{name}={shown}")))
        item += nodes.definition("", nodes.paragraph("", "", *with_code(field.metadata["doc"])))
        if typing.get_origin(hint) is typing.Literal:
            choices = " | ".join(map(str, typing.get_args(hint)))
            item[1] += nodes.paragraph("", "one of ", nodes.literal(text=choices))
        return nodes.definition_list("", item)


def with_code(text: str) -> list[nodes.Node]:
    """Text, in which what is between backticks is code."""
    parts = enumerate(text.split("`"))
    return [nodes.literal(text=part) if index % 2 else nodes.Text(part) for index, part in parts]


def read_sections(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Args:, Returns: and Raises: become fields. Not in a field's docstring, where a colon is a colon."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, Napoleon(napoleon_use_rtype=False), app, what, name, obj, options).lines()


def hide_arguments(app: Sphinx, what: str, name: str, obj: object, *_: object) -> tuple[str, str] | None:
    """Of protocols, which nobody calls."""
    return ("", "") if getattr(obj, "_is_protocol", False) else None


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("settings", Settings)
    app.connect("autodoc-process-docstring", read_sections)
    app.connect("autodoc-process-signature", hide_arguments)
    return {"parallel_read_safe": True}
