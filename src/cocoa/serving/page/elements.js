// Making elements: text is always text, so nothing that a document says can become part of the page.

const SVG = "http://www.w3.org/2000/svg";

/** Returns an element; `on` in `properties` holds listeners, null and false leave an attribute out. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  const { on = {}, ...attributes } = properties;
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  for (const [name, listener] of Object.entries(on)) made.addEventListener(name, listener);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Returns one of the symbols of index.html; it is decoration, the label stands on what holds it. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  drawing.append(use);
  return drawing;
}

/** Returns a number as people of this browser's language write it. */
export function numbered(value) {
  return value.toLocaleString();
}

/** Returns "1 document", "3 documents". */
export function counted(number, singular, plural = `${singular}s`) {
  return `${numbered(number)} ${number === 1 ? singular : plural}`;
}
