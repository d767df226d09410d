"""A layout as a picture: who looks at whom, cell by cell, and the rule in words."""

from __future__ import annotations

from markupsafe import Markup

from cocoa.layouts import Layout, Role
from cocoa.layouts.layout import LETTERS, TOKENS

_CELL, _GAP, _HEAD = 26, 3, 30
_WORDS = {Role.CONTEXT: "context", Role.BRIDGE: "bridge token", Role.TARGET: "target text"}


def layout_svg(layout: Layout, row: str | None = None) -> Markup:
    """Returns a figure: a grid of query rows and key columns, filled where the query looks, and a caption in words."""
    row = row or ("AAAeBBB" if layout.bridged else "AAABBB")
    # The drawing in letters is the one account of a layout; the picture only colours it.
    looks = [line.split()[1:] for line in layout.draw(row).splitlines()[1:]]
    pitch = _CELL + _GAP
    size = _HEAD + pitch * len(row)
    parts = []
    for place, letter in enumerate(row):
        middle = _HEAD + pitch * place + _CELL / 2
        parts.append(_letter(letter, middle, _HEAD - 11))
        parts.append(_letter(letter, _HEAD - 16, middle + 5))
    for line, cells in enumerate(looks):
        for column, cell in enumerate(cells):
            kind = f"cell role-{row[column]}" if cell == "#" else "cell"
            x, y = _HEAD + pitch * column, _HEAD + pitch * line
            rect = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}" rx="4"/>')
            parts.append(rect.format(kind, x, y, _CELL, _CELL))
    start = Markup('<svg viewBox="0 0 {0} {0}" width="{0}" role="img"><title>Layout {1}: {2}</title>')
    figure = start.format(size, layout.name, rule_in_words(layout)) + Markup("").join(parts) + Markup("</svg>")
    caption = Markup("<figcaption><b>{}</b> {}</figcaption>").format(rule_in_words(layout), _key(row))
    return Markup('<figure class="layout">') + figure + caption + Markup("</figure>")


def rule_in_words(layout: Layout) -> str:
    """Returns a sentence that says who looks at whom, and what follows from it."""
    roles = [role for role in TOKENS if layout.bridged or role is not Role.BRIDGE]
    seen = {role: [key for key in roles if key in layout.sees.get(role, ())] for role in roles}
    if all(keys == roles for keys in seen.values()):
        return (
            "Every token looks at itself and at what stands before it."
            if layout.causal
            else "Every token looks at every token."
        )
    rules = [
        f"{LETTERS[role]} looks at {'everything' if keys == roles else _joined([LETTERS[key] for key in keys])}"
        for role, keys in seen.items()
    ]
    sentence = ", ".join(rules) + (", and never ahead." if layout.causal else ".")
    if layout.bridged and Role.CONTEXT not in seen[Role.TARGET] and Role.BRIDGE in seen[Role.TARGET]:
        sentence += " What B needs from A can only come through e."
    return sentence


def _letter(letter: str, x: float, y: float) -> Markup:
    return Markup('<text class="role role-{0}" x="{1:g}" y="{2:g}">{0}</text>').format(letter, x, y)


def _key(row: str) -> str:
    meanings = [f"{LETTERS[role]} = {_WORDS[role]}" for role in TOKENS if LETTERS[role] in row]
    return f"A row looks at the filled columns. {', '.join(meanings)}."


def _joined(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing"
