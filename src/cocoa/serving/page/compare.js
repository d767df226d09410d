// Two searches side by side: the same query by two models or two lengths of vector, and how the order differs.

import { element } from "./elements.js";
import { inWords as troubleInWords } from "./messages.js";
import { said } from "./notice.js";
import { face, scored, spokenOf, titled } from "./results.js";

/** Returns every way to search that this server has, as [key, label]: models times their lengths of vector. */
export function waysOf(index) {
  const models = searchable(index);
  return models.flatMap(({ name, dimensions }) =>
    dimensions.map((length) => [keyOf(name, length), models.length > 1 ? `${name}, ${inWords(length)}` : inWords(length)]));
}

const searchable = (index) => index.models.filter((model) => model.searchable);
const keyOf = (name, length) => `${name}:${length}`;
const inWords = (length) => `${length} dimensions`;

/** Returns what a way is called. */
export const labelOf = (index, way) => waysOf(index).find(([key]) => key === way)?.[1] ?? way;

/** Returns the search's part of a way. */
export function bodyOf(way) {
  const at = way.lastIndexOf(":");
  return { model: way.slice(0, at), dimensions: Number(way.slice(at + 1)) };
}

/**
 * Returns two ways that this server has, as near to the wished ones as can be. Otherwise two models with whole vectors,
 * or the longest and the shortest vectors of the one that there is.
 */
export function twoOf(index, wished) {
  const known = waysOf(index).map(([key]) => key);
  const other = known.find((way) => bodyOf(way).model !== bodyOf(known[0]).model) ?? known.at(-1);
  return [known[0], other].map((usual, place) => (known.includes(wished[place]) ? wished[place] : usual));
}

/** Returns both lists; `panes` is [{way, hits, trouble}, the same], `act` is {open(hit, place), choose(place, way)}. */
export function sideBySide(index, panes, act) {
  const ranks = panes.map(({ hits }) => new Map(hits.map((hit, number) => [hit.id, number])));
  const shared = panes[0].hits.filter((hit) => ranks[1].has(hit.id)).length;
  const most = Math.max(panes[0].hits.length, panes[1].hits.length);
  const view = element("div", { class: "compare" },
    element("p", { class: "summary", role: "status" },
      panes.some(({ trouble }) => trouble) ? "One side only."
        : shared === most ? `The same ${most} documents on both sides.` : `${shared} of ${most} documents are on both sides.`),
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

function paneOf(index, { way, hits, trouble }, place, others, act) {
  const name = place ? "Right side" : "Left side";
  return element("section", { class: "pane", "aria-label": name },
    searchable(index).length > 1 && element("p", { class: "by" }, bodyOf(way).model),
    choice(index, way, { id: `way-${place}`, "aria-label": name, on: { change: (event) => act.choose(place, event.target.value) } }),
    trouble ? toldOf(trouble) : element("ol", { class: "ranking", role: "list" },
      hits.map((hit, number) => row(hit, number, place, others.get(hit.id), act))));
}

// A length of vector; where there are several models they are groups, and the chosen one stands above.
function choice(index, way, properties) {
  const options = ({ name, dimensions }) =>
    dimensions.map((length) =>
      element("option", { value: keyOf(name, length), selected: keyOf(name, length) === way }, inWords(length)));
  const models = searchable(index);
  return element("select", properties,
    models.length > 1 ? models.map((model) => element("optgroup", { label: model.name }, options(model))) : options(models[0]));
}

function toldOf(trouble) {
  const { title, advice } = troubleInWords(trouble);
  return said(title, advice, null, "trouble");
}

function row(hit, number, place, other, act) {
  const [mark, words, kind] = moved(number, other);
  return element("li", {},
    element("button",
      {
        type: "button", class: "row", "data-id": hit.id, "data-side": place, on: { click: () => act.open(hit, place) },
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
