"""Draws docs/bridges.svg: the paper's bridge beside the light decoder; run it again after a change.

python scripts/draw_bridges.py
"""

from __future__ import annotations

from pathlib import Path

OUT = Path(__file__).parents[1] / "docs" / "bridges.svg"
WIDTH, HEIGHT, PANEL = 900, 476, 450
CELL, STEP, LAYERS = 30, 46, 4
TOP, BOTTOM = 150, 360
"""Where the last and the first layer's tokens stand."""

STYLE = """
svg { color-scheme: light dark; --page: #fffdf9; --ink: #23211d; --soft: #635d54; --rule: #d9d2c5;
  --a: #c9d6e6; --e: #e8a05c; --b: #bfdccb; --hidden: #fffdf9; --look: #a8521d; --vector: #a8521d; }
@media (prefers-color-scheme: dark) { svg { --page: #1c1b19; --ink: #f1ede4; --soft: #b3ab9e; --rule: #4a463f;
  --a: #3c5068; --e: #b5662a; --b: #2f5a45; --hidden: #1c1b19; --look: #f0a868; --vector: #f0a868; } }
text { font: 13px system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: var(--soft); }
.small { font-size: 12px; }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.page { fill: var(--page); }
.A { fill: var(--a); } .e { fill: var(--e); } .B { fill: var(--b); }
.cell { stroke: var(--ink); stroke-width: 1; }
.hidden { fill: var(--hidden); stroke-dasharray: 3 3; }
.frame { fill: none; stroke: var(--rule); stroke-width: 1.5; }
.up { stroke: var(--rule); stroke-width: 1.5; fill: none; }
.look { stroke: var(--look); stroke-width: 1.8; fill: none; }
.faint { stroke: var(--soft); stroke-width: 1.1; fill: none; }
.vector { stroke: var(--vector); stroke-width: 3; fill: none; }
.tip { fill: var(--look); } .fainttip { fill: var(--soft); }
"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """Returns a line of words."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def frame(x: float, y: float, width: float, height: float) -> str:
    """Returns a frame around what belongs together."""
    return f'<rect class="frame" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="10"/>'


def cell(x: float, y: float, role: str, *, hidden: bool = False) -> str:
    """Returns a token around a point."""
    kind = "cell hidden" if hidden else f"cell {role}"
    half = CELL / 2
    return f'<rect class="{kind}" x="{x - half:g}" y="{y - half:g}" width="{CELL}" height="{CELL}" rx="5"/>'


def letter(x: float, y: float, role: str, *, hidden: bool = False) -> str:
    """Returns a token with its letter, or a question mark where it is hidden."""
    return cell(x, y, role, hidden=hidden) + text(x, y + 4.5, "?" if hidden else role, "middle")


def line(kind: str, *points: tuple[float, float], tip: str = "") -> str:
    """Returns a line through points, with an arrow's tip if one is named."""
    path = " L ".join(f"{x:g} {y:g}" for x, y in points)
    end = f' marker-end="url(#{tip})"' if tip else ""
    return f'<path class="{kind}" d="M {path}"{end}/>'


def look(x: float, to_x: float, y: float, rise: float, kind: str = "look", tip: str = "tip") -> str:
    """Returns a bow from who is looked at to who looks, over the tokens of one layer."""
    half = CELL / 2 + 2
    return (
        f'<path class="{kind}" d="M {x:g} {y - half:g} C {x:g} {y - half - rise:g}, {to_x:g} {y - half - rise:g}, '
        f'{to_x:g} {y - half:g}" marker-end="url(#{tip})"/>'
    )


def column(x: float, role: str, *, hidden: bool = False) -> list[str]:
    """Returns one token's way through all layers, its letter at the bottom."""
    rows = [BOTTOM - number * (BOTTOM - TOP) / LAYERS for number in range(LAYERS + 1)]
    parts = [line("up", (x, rows[0]), (x, rows[-1]))]
    parts += [cell(x, y, role, hidden=hidden and y == rows[0]) for y in rows[1:]]
    return [*parts, letter(x, rows[0], role, hidden=hidden)]


def layer_rows() -> list[float]:
    """Returns the heights of the layers, first layer first."""
    return [BOTTOM - number * (BOTTOM - TOP) / LAYERS for number in range(1, LAYERS + 1)]


def paper(left: float) -> list[str]:
    """Returns the panel of the paper's bridge."""
    a, e, b = (
        [left + 66 + STEP * number for number in range(3)],
        left + 66 + 3 * STEP,
        [left + 66 + STEP * n for n in (4, 5, 6)],
    )
    hidden = (True, False, True)
    parts = [
        text(left + 24, 34, "The paper’s bridge", "title"),
        text(left + 24, 56, "one row [A ; e ; B]; A and B never look at each other", "soft"),
        frame(left + 38, TOP - 34, 6 * STEP + 56, BOTTOM - TOP + 16),
        text(left + 38, TOP - 42, "the model, all layers", "soft small"),
    ]
    for x in a:
        parts += column(x, "A")
    parts += column(e, "e")
    for x, gone in zip(b, hidden, strict=True):
        parts += column(x, "B", hidden=gone)
    for y in layer_rows():
        parts.append(look(a[0], e, y, 14, "faint", "fainttip"))
        parts += [look(e, x, y, 14 + 5 * number, "look", "tip") for number, x in enumerate(b)]
    for x, gone in zip(b, hidden, strict=True):
        if gone:
            # A hidden word is read from the state one place before it.
            parts += [line("faint", (x - STEP, TOP - CELL / 2 - 1), (x - STEP, 92), tip="fainttip")]
            parts += [text(x - STEP, 84, "word?", "middle small")]
    parts += [
        text(left + 66 + STEP, BOTTOM + 36, "picture, question", "middle soft small"),
        text(b[1], BOTTOM + 36, "target text, 70 % hidden", "middle soft small"),
        text(left + 24, BOTTOM + 66, "In every layer B reads e’s keys and values: what it needs may"),
        text(left + 24, BOTTOM + 84, "stand in any of them, and need not be in the last vector."),
    ]
    return parts


def light(left: float) -> list[str]:
    """Returns the panel of the light decoder."""
    a, e = [left + 66 + STEP * number for number in range(3)], left + 66 + 3 * STEP
    decoder = [left + 66 + STEP * number + 24 for number in (4, 5, 6, 7)]
    low, high = TOP + 40, TOP - 16
    hidden = (True, False, True)
    parts = [
        text(left + 24, 34, "The light decoder", "title"),
        text(left + 24, 56, "the row is [A ; e], as it is when the model embeds", "soft"),
        frame(left + 38, TOP - 34, 3 * STEP + 56, BOTTOM - TOP + 16),
        text(left + 38, TOP - 42, "the model, all layers", "soft small"),
        frame(decoder[0] - 24, TOP - 38, 3 * STEP + 48, 100),
        text(decoder[0] - 24, TOP + 80, "one layer, later dropped", "soft small"),
    ]
    for x in a:
        parts += column(x, "A")
    parts += column(e, "e")
    parts += [look(a[0], e, y, 14, "faint", "fainttip") for y in layer_rows()]
    parts.append(
        line(
            "vector",
            (e + CELL / 2, TOP),
            (e + 34, TOP),
            (e + 34, low),
            (decoder[0] - CELL / 2 - 3, low),
            tip="vectortip",
        )
    )
    parts += [line("up", (x, low), (x, high)) for x in decoder]
    parts += [cell(x, high, role) for x, role in zip(decoder, "eBBB", strict=True)]
    parts.append(letter(decoder[0], low, "e"))
    for x, gone in zip(decoder[1:], hidden, strict=True):
        parts.append(letter(x, low, "B", hidden=gone))
        if gone:
            parts += [line("faint", (x - STEP, high - CELL / 2 - 1), (x - STEP, 92), tip="fainttip")]
            parts += [text(x - STEP, 84, "word?", "middle small")]
    parts += [look(decoder[0], x, low, 8, "look", "tip") for x in decoder[1:]]
    parts.append(line("faint", (e, TOP - CELL / 2 - 1), (e, 92), tip="fainttip"))
    parts.append(text(e, 84, "embedding", "middle small"))
    parts += [
        text(left + 66 + STEP, BOTTOM + 36, "picture or text", "middle soft small"),
        text(decoder[2] - 24, low + 74, "target text, 75 % hidden;", "middle soft small"),
        text(decoder[2] - 24, low + 90, "the model never reads it", "middle soft small"),
        text(left + 24, BOTTOM + 66, "B gets one vector, e’s last, which is the embedding:"),
        text(left + 24, BOTTOM + 84, "what B needs must stand in it."),
    ]
    return parts


def drawing() -> str:
    """Returns the picture as SVG, readable on light and dark pages."""
    tips = "".join(
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="{size}" markerHeight="{size}" '
        f'orient="auto-start-reverse"><path class="{kind}" d="M 0 0 L 8 4 L 0 8 z"/></marker>'
        for name, kind, size in (("tip", "tip", 5), ("fainttip", "fainttip", 6), ("vectortip", "tip", 4))
    )
    told = (
        "Left: the row A, e, B goes through the model; in every layer B looks at e alone. Right: A and e go through "
        "the model, and a decoder of one layer gets e's last vector and the words of B that are left."
    )
    parts = [
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
        f'<path class="up" d="M {PANEL} 24 V {HEIGHT - 24}"/>',
        *paper(0),
        *light(PANEL),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>Two ways through the bridge token</title><desc>{told}</desc><style>{STYLE}</style>"
        f"<defs>{tips}</defs>{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    OUT.write_text(drawing())
