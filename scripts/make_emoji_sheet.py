"""Draws the emoji sheet that generated scenes are made of: `src/cocoa/assets/emoji.webp` and `emoji.json`.

Needs Debian's fonts-noto-color-emoji. The same font package and Pillow give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
PACKAGE = "fonts-noto-color-emoji"
ASSETS = Path(__file__).resolve().parent.parent / "src" / "cocoa" / "assets"
CELL = 64
COLUMNS = 16
BITMAP = 109  # the only size that the font's bitmaps have
MIN_DISTANCE = 0.175  # rms over 16x16 thumbnails, values in [0, 1]; below it two drawings are too easy to confuse

# The most distinct and concrete things come first: small settings use only the first 128.
FIRST = """
🐶 🐱 🐭 🐰 🦊 🐻 🐼 🐯 🐮 🐷 🐸 🐵 🐔 🐧 🦉 🐴 🐝 🦋 🐌 🐞 🐢 🐍 🐙 🦀 🐬 🐳 🐘 🦒 🐫 🐓 🦜 🦔
🍎 🍊 🍋 🍌 🍉 🍇 🍓 🍒 🍍 🥝 🍅 🍆 🥑 🥦 🥕 🌽 🍄 🍞 🥐 🧀 🍔 🍟 🍕 🌮 🥨 🍦 🍩 🍪 🎂 🍭 🍷 🍺
🚗 🚌 🚒 🚜 🚲 🚂 🚁 🚀 ⛵ 🚢 🌵 🌴 🌲 🌻 🌹 🍁 🌈 🔥 🌋 🏰 🗼 🗽 ⛺ ⛪
⚽ 🏈 🎸 🎺 🎻 🎹 🔑 🔨 🔒 💡 📷 📱 💻 📺 👓 👑 🎩 👟 👗 💍 🎁 🎈 📕 🧲 🔬 🎲 🏆 🪁 💎 🔔 🧸 ⚓
🎃 👻 👽 💀 🤖 🤡 😀 💣
"""
THEN = """
🐹 🐨 🦁 🦄 🐤 🦆 🦅 🦇 🕷 🦂 🦎 🦖 🦑 🦐 🦞 🐡 🐠 🦈 🐊 🦓 🦍 🦘 🐏 🐑 🐩 🦃 🦚 🦢 🦩 🦝
🍐 🍑 🥭 🥥 🥒 🧄 🥜 🧇 🍗 🌭 🥪 🥗 🍿 🧂 🍜 🍝 🍣 🧁 🍫 🍬 🍯 🥛 🍹
🚕 🚓 🚑 🚚 🛶 🛸 🚦 🚧 🌷 🌺 🌱 🌳 🍀 💐 🌊 💧 🌙 🌞 🪐
🏠 🏭 🗿 🎡 ⛲ ⚾ 🎱 🥊 🎨 🧩 🎷 🥁 🎧 🔭
📻 🔋 🔌 💾 🔦 📚 📎 🪓 🔧 🧱 🪜 🧯 🧪 💊 🚽 🛁 🧹 🧶 👕 👖 👜 🎒 👢 👠 🧦
🦷 🧠 👀 💰 🧭 🪂 🪴 🫖 🫐 🪲 😭
"""


def name_of(character: str) -> str:
    """Returns the character's Unicode name in lower-case words: letters, digits and single spaces."""
    words = unicodedata.name(character).lower().replace("-", " ")
    return "".join(letter for letter in words if letter.isalnum() or letter == " ")


def drawing(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Returns the emoji's drawing, cut to its ink and centred in a square cell."""
    canvas = Image.new("RGBA", (192, 192))
    ImageDraw.Draw(canvas).text((16, 16), character, font=font, embedded_color=True)
    box = canvas.getchannel("A").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        raise SystemExit(f"the font has no drawing of {character} ({name_of(character)})")
    ink = canvas.crop(box)
    scale = CELL / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(ink.resize(size, Image.Resampling.LANCZOS), ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def thumbnail(cell: Image.Image) -> NDArray[np.float64]:
    """Returns 16x16 RGB thumbnails on white and on black, values in [0, 1]: no drawing can hide in its ground."""
    parts = []
    for ground in ("white", "black"):
        picture = Image.new("RGBA", cell.size, ground)
        picture.alpha_composite(cell)
        parts.append(np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.BOX), dtype=np.float64))
    return np.stack(parts) / 255.0


def main() -> None:
    """Writes the sheet and its list of names."""
    font = ImageFont.truetype(str(FONT), BITMAP, layout_engine=ImageFont.Layout.BASIC)
    kept: list[tuple[str, str, Image.Image, NDArray[np.float64]]] = []
    for character in FIRST.split() + THEN.split():
        name, cell = name_of(character), drawing(character, font)
        small = thumbnail(cell)
        near = [other for _, other, _, seen in kept if float(np.sqrt(((seen - small) ** 2).mean())) < MIN_DISTANCE]
        if near or len(name.split()) > 3 or any(name == other for _, other, _, _ in kept):
            print(f"left out {character} {name}: " + (f"too like {', '.join(near)}" if near else "name"))
            continue
        kept.append((character, name, cell, small))

    rows = -(-len(kept) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for index, (_, _, cell, _) in enumerate(kept):
        sheet.paste(cell, (index % COLUMNS * CELL, index // COLUMNS * CELL))
    sheet.save(ASSETS / "emoji.webp", lossless=True, quality=80, method=4)
    query = ["dpkg-query", "--show", "--showformat=${Version}", PACKAGE]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    drawings = [{"name": name, "codepoint": f"U+{ord(character):04X}"} for character, name, _, _ in kept]
    content = {"cell": CELL, "columns": COLUMNS, "font": f"{PACKAGE} {version}", "drawings": drawings}
    (ASSETS / "emoji.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kept)} drawings, {(ASSETS / 'emoji.webp').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
