"""YAML in and out, as plain data: whatever is written is read back as the same text, number or list."""

import re
from collections import Counter
from typing import Any

import yaml

SCIENTIFIC = re.compile(r"[-+]?\d[\d_]*(?:\.[\d_]*)?[eE][-+]?\d+$")
"""`1e-6`, which YAML 1.1 takes for text."""


class _Loader(yaml.SafeLoader):
    """Without aliases, of which a line can make gigabytes, and without names given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "settings have no aliases (*name); write it out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        for name, times in Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)).items():
            if times > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is given {times} times", node.start_mark)
        return super().construct_mapping(node, deep)


RARE_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Line breaks that only double quotes keep as they are."""


class _Dumper(yaml.SafeDumper):
    """Puts quotes around text that the loader would take for something else."""

    def analyze_scalar(self, scalar: str) -> Any:
        analysis = super().analyze_scalar(scalar)
        if RARE_BREAKS.search(scalar):
            analysis.allow_single_quoted = analysis.allow_block = False
        return analysis


for _kind in (_Loader, _Dumper):
    _kind.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]  # dates are text
        for first, resolvers in _kind.yaml_implicit_resolvers.items()
    }
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", SCIENTIFIC, list("-+0123456789"))


def parse(text: str) -> Any:
    """Raises yaml.YAMLError, ValueError or RecursionError where it is not YAML, or more than settings need."""
    return yaml.load(text, Loader=_Loader)


def write(data: dict) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
