"""What a browser is asked about a page: can it be read, has everything a name; and how a file is dropped or pasted."""

DROP = """([content, name]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer: carried, bubbles: true, cancelable: true }));
  }
}"""

PASTE = """([content, name]) => {
  const carried = new DataTransfer();
  carried.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
  document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: carried, bubbles: true, cancelable: true }));
}"""

# Visible texts whose contrast with what lies behind them is below WCAG AA: 4.5, or 3 for large letters.
CONTRASTS = """() => {
  const numbers = (colour) => {
    const brush = (document.brush ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((n) => (n /= 255) <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return numbers(getComputedStyle(document.body).backgroundColor);
  };
  const top = document.querySelector("dialog[open]") ?? document.body;
  const found = [];
  for (const element of top.querySelectorAll("*")) {
    const words = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    if (!words.length && !element.matches("textarea, input")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (element.closest(":disabled, [hidden], noscript, .unseen")) continue;
    const [a, b] = [light(numbers(style.color)), light(ground(element))].sort((x, y) => y - x);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.push([element.className || element.tagName, style.color, ratio]);
  }
  return found;
}"""

# Controls without a name, pictures without alt, ids that stand twice.
NAMELESS = """() => {
  const named = (element) =>
    element.getAttribute("aria-label") || element.innerText?.trim() || element.labels?.length || element.title;
  const controls = [...document.querySelectorAll("button, input, select, textarea, a")].filter((one) => !named(one));
  const pictures = [...document.querySelectorAll("img:not([alt])")];
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  const twice = ids.filter((id, place) => ids.indexOf(id) !== place);
  return [...controls, ...pictures].map((one) => one.outerHTML).concat(twice);
}"""

FOCUS = """() => {
  const here = document.activeElement;
  return [here.id, here.getAttribute("aria-label"), here.dataset.id];
}"""

# The field shows it by its frame, everything else by a ring.
FOCUS_IS_SEEN = """() => {
  const here = document.activeElement;
  const framed = here.closest(".field:focus-within") && here.matches("textarea");
  const style = getComputedStyle(framed ? here.closest(".field") : here);
  return framed ? style.boxShadow !== "none" : style.outlineStyle !== "none";
}"""

SMALL = """() => [...document.querySelectorAll("dialog button")]
  .filter((button) => button.checkVisibility())
  .filter((button) => Math.min(button.getBoundingClientRect().width, button.getBoundingClientRect().height) < 24)
  .map((button) => button.outerHTML)"""
