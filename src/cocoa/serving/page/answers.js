// What stands in the place of results: hits, two rankings, examples, or a sentence that says why there is nothing.

import { MOST } from "./address.js";
import { bodyOf, sideBySide, twoOf } from "./compare.js";
import { counted, element } from "./elements.js";
import { said } from "./notice.js";
import { grid } from "./results.js";

/** Returns how many hits a view asks for: no more than the server gives. */
export const sizeOf = (view, index) => Math.min(view.size, index.max_k);

/** Returns the searches of a view as [{way, body}]: one, or the two that are compared. */
export function searchesOf(view, index, body) {
  if (!view.compare) return [{ way: null, body }];
  return twoOf(index, view.compare).map((way) => ({ way, body: { ...body, ...bodyOf(way) } }));
}

/** Returns the hits of one search, or of two side by side; `act` holds what can be done with them. */
export function found(view, index, panes, act) {
  if (panes.every((pane) => !pane.hits.length)) return [noHits(view, act)];
  if (view.compare) return [sideBySide(index, panes, act)];
  const [{ hits, seconds }] = panes;
  const size = sizeOf(view, index);
  const full = hits.length === size;
  const hidden = !index.shows_pictures && hits.some((hit) => hit.image);
  return [
    element("p", { class: "summary", role: "status" },
      `${full ? "The best " : ""}${counted(hits.length, "hit")} in ${seconds.toFixed(2)} s`,
      hidden && element("span", { class: "hint" }, "Pictures are shown where the server is started with --root FOLDER.")),
    grid(hits, act),
    full && size < Math.min(MOST, index.max_k) &&
      element("button", { type: "button", class: "tool further", on: { click: act.further } }, "Show more"),
  ].filter(Boolean);
}

/** Returns what is shown before anything is asked: a few documents, or why there are none. */
export function unasked(index, act) {
  if (!index.searchable) {
    return [said("There is nothing to search yet",
      "This server was started without an index. Start it again as: cocoa serve MODEL --index URI", null, "")];
  }
  if (!index.count) {
    return [said("The index is empty",
      "Put pictures or texts into it with cocoa embed and cocoa index; then they are found here.", null, "")];
  }
  if (!index.examples.length) return [];
  return [
    element("h2", { class: "lead-in" }, index.count > index.examples.length ? "Or start from one of these" : "All there is"),
    grid(index.examples, act, { ranked: false, label: "Examples" }),
  ];
}

function noHits(view, act) {
  if (!Object.keys(view.filter).length) return said("Nothing was found", "Try other words, or another picture.", null, "");
  const clear = element("button", { type: "button", class: "primary", on: { click: act.unfilter } }, "Clear the filters");
  return said("Nothing passes these filters", "Take one out to see more.", clear, "");
}
