"""YAML that people wrote as plain data: numbers as they write them, no key twice, and no more than its text shows."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from cocoa.errors import RecipeError

_MOST_VALUES = 100_000
"""Values in one text, what an alias stands for counted wherever it stands: a few lines of them can mean billions."""


def parse_yaml(text: str, *, where: str = "") -> Any:
    """Returns the data of a YAML text. Raises `E_RECIPE_YAML` for what is no YAML, or no data that JSON could hold."""
    try:
        tree = yaml.load(text, _Yaml)
    except (yaml.YAMLError, ValueError) as error:  # The latter for a day that is none, and numbers without end.
        raise RecipeError("E_RECIPE_YAML", f"not YAML: {' '.join(str(error).split())}", where=where) from error
    except RecursionError as error:
        raise RecipeError("E_RECIPE_YAML", "nested too deeply", where=where) from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        # What PyYAML's own readers of values come to where a tag stands at another kind of value.
        raise RecipeError("E_RECIPE_YAML", "not YAML: a tag (!!) stands at what is none of it", where=where) from error
    try:
        json.dumps(tree, default=str, skipkeys=True)
    except (ValueError, RecursionError) as error:
        raise RecipeError("E_RECIPE_YAML", "nested too deeply, or something is inside itself", where=where) from error
    return tree


class _Yaml(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does and PyYAML does not; refuses a key given twice, and too many values."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _num_values(node, {}) > _MOST_VALUES:
            what = f"more than {_MOST_VALUES} values, what aliases (*) stand for included"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping as a key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _num_values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node comes to with its aliases written out; each node is looked at once."""
    if id(node) not in known:
        known[id(node)] = 1  # What is inside itself is refused later.
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = (part for one in inner for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] += sum(_num_values(part, known) for part in pairs)
    return known[id(node)]
