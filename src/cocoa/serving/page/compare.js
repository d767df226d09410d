// Two searches side by side: the same query by two models or two lengths of vector, and how the order differs.

import { element } from "./elements.js";
import { face, scored, spokenOf, titled } from "./results.js";

/** Returns every way to search that this server has, as [key, label]: models times dimensions. */
export function waysOf(index) {
  return index.models.flatMap((model) =>
    index.dimensions.map((dimensions) => [
      `${model}:${dimensions}`,
      index.models.length > 1 ? `${model}, ${dimensions} dimensions` : `${dimensions} dimensions`,
    ]));
}

/** Returns the search's part of a way. */
export function bodyOf(way) {
  const at = way.lastIndexOf(":");
  return { model: way.slice(0, at), dimensions: Number(way.slice(at + 1)) };
}

/** Returns two ways that this server has, as near to the wished ones as can be: the first and the last otherwise. */
export function twoOf(index, wished) {
  const known = waysOf(index).map(([key]) => key);
  return [known[0], known.at(-1)].map((usual, place) => (known.includes(wished[place]) ? wished[place] : usual));
}

/** Returns both lists; `panes` is [{way, hits}, {way, hits}], `act` is {open, choose(place, way)}. */
export function sideBySide(index, panes, act) {
  const ranks = panes.map(({ hits }) => new Map(hits.map((hit, number) => [hit.id, number])));
  const shared = panes[0].hits.filter((hit) => ranks[1].has(hit.id)).length;
  const most = Math.max(panes[0].hits.length, panes[1].hits.length);
  const view = element("div", { class: "compare" },
    element("p", { class: "summary", role: "status" },
      shared === most ? `The same ${most} documents on both sides.` : `${shared} of ${most} documents are on both sides.`),
    element("div", { class: "panes" },
      panes.map((pane, place) => paneOf(index, pane, place, ranks[1 - place], act))));
  const light = (event, on) => {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (id === undefined) return;
    for (const row of view.querySelectorAll(`[data-id="${CSS.escape(id)}"]`)) row.classList.toggle("lit", on);
  };
  for (const [name, on] of [["mouseover", true], ["mouseout", false], ["focusin", true], ["focusout", false]]) {
    view.addEventListener(name, (event) => light(event, on));
  }
  return view;
}

function paneOf(index, { way, hits }, place, others, act) {
  const name = place ? "Right side" : "Left side";
  const select = element("select", { id: `way-${place}`, "aria-label": name, on: { change: (event) => act.choose(place, event.target.value) } },
    waysOf(index).map(([key, label]) => element("option", { value: key, selected: key === way }, label)));
  return element("section", { class: "pane", "aria-label": name }, select,
    element("ol", { class: "ranking", role: "list" },
      hits.map((hit, number) => row(hit, number, others.get(hit.id), act))));
}

function row(hit, number, other, act) {
  const [mark, words, kind] = moved(number, other);
  return element("li", {},
    element("button",
      {
        type: "button", class: "row", "data-id": hit.id, on: { click: () => act.open(hit) },
        "aria-label": `${number + 1}. ${spokenOf(hit)}. Score ${scored(hit.score)}, ${words}`,
      },
      element("span", { class: "rank" }, String(number + 1)),
      element("span", { class: "mat" }, face(hit, "small")),
      element("span", { class: "what" }, element("span", { class: "caption" }, titled(hit)),
        element("span", { class: "score" }, scored(hit.score))),
      element("span", { class: `moved ${kind}`, title: words, "aria-hidden": "true" }, mark)));
}

function moved(number, other) {
  if (other === undefined) return ["only here", "not on the other side", "alone"];
  if (other === number) return ["=", "at the same place on the other side", "same"];
  const up = other > number;
  const by = Math.abs(other - number);
  return [`${up ? "↑" : "↓"}${by}`, `${by} ${up ? "higher" : "lower"} than on the other side`, up ? "up" : "down"];
}
