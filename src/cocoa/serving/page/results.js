// The grid of hits: one stop for the Tab key, arrows inside it; each hit can be opened or searched on from.

import { pictureAddress } from "./api.js";
import { element, icon } from "./elements.js";

/** Returns the cosine as it is shown: three digits, so that neighbours can be told apart. */
export const scored = (score) => score.toFixed(3).replace("-", "−");

/** Returns what a hit is called. */
export const titled = (hit) => hit.text || hit.id;

/** Returns what a hit is called where it is read out: not the whole of a long text. */
export const spokenOf = (hit) => (titled(hit).length > 100 ? `${titled(hit).slice(0, 99).trimEnd()}…` : titled(hit));

/** Returns the picture of a hit, or its words where it has none or the picture is gone. */
export function face(hit, size) {
  const words = () => element("span", { class: "words" }, titled(hit));
  const address = pictureAddress(hit, size);
  if (!address) return words();
  return element("img", {
    src: address, alt: "", loading: "lazy", decoding: "async", draggable: "false",
    on: { error: (event) => wordsInstead(event.target, words()) },
  });
}

// A card whose picture is gone becomes one of words, which says them once.
function wordsInstead(image, words) {
  const card = image.closest(".card");
  card?.classList.add("of-words");
  card?.querySelector(".caption")?.remove();
  image.replaceWith(words);
}

/** Returns the list of hits; `act` is {open, more, less}; without `ranked` no scores are shown. */
export function grid(hits, act, { ranked = true, label = "Results" } = {}) {
  const best = Math.max(...hits.map((hit) => hit.score), 1e-9);
  const list = element("ul", { class: "grid", role: "list", "aria-label": label },
    hits.map((hit, number) => card(hit, number, best, act, ranked)));
  rove(list);
  return list;
}

/** Returns as many empty cards, while the first hits are on their way. */
export function skeleton(number) {
  const cards = Array.from({ length: number }, () =>
    element("li", { class: "card blank" }, element("span", { class: "mat" }), element("span", { class: "line" })));
  return element("ul", { class: "grid", "aria-hidden": "true" }, cards);
}

function card(hit, number, best, act, ranked) {
  const title = titled(hit);
  const kind = hit.image ? "" : " of-words";
  const open = element("button",
    {
      type: "button", class: "open", "data-id": hit.id, tabindex: number ? "-1" : "0",
      "aria-label": ranked ? `${number + 1}. ${spokenOf(hit)}. Score ${scored(hit.score)}` : spokenOf(hit),
      on: { click: () => act.open(hit) },
    },
    element("span", { class: "mat" }, face(hit, "small")),
    hit.image && element("span", { class: "caption", title }, title));
  const score = ranked && element("p", { class: "score", title: "Cosine with the query", "aria-hidden": "true" },
    scored(hit.score), meter(hit.score / best));
  return element("li", { class: `card${kind}` }, open,
    element("div", { class: "foot" },
      score || element("span", { class: "score" }),
      follow("more", `More like this: ${spokenOf(hit)}`, () => act.more(hit)),
      ranked && follow("less", `Less like this: ${spokenOf(hit)}`, () => act.less(hit))));
}

function follow(name, label, act) {
  return element("button",
    { type: "button", class: "follow", tabindex: "-1", "aria-label": label, title: label.split(":")[0], on: { click: act } },
    icon(name));
}

/** Returns a bar that is full at 1. */
export function meter(share) {
  const fill = element("span", { class: "fill" });
  fill.style.inlineSize = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return element("span", { class: "meter" }, fill);
}

// The arrows move between cards as they lie on the screen; the buttons of the current card alone are Tab stops.
function rove(list) {
  const opens = Array.from(list.querySelectorAll(".open"));
  const makeCurrent = (card) => {
    for (const button of list.querySelectorAll("button")) button.tabIndex = card.contains(button) ? 0 : -1;
  };
  if (opens.length) makeCurrent(opens[0].closest(".card"));
  list.addEventListener("focusin", (event) => makeCurrent(event.target.closest(".card")));
  list.addEventListener("keydown", (event) => {
    const here = opens.indexOf(event.target);
    if (here < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    const across = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
    const ends = { Home: 0, End: opens.length - 1 };
    const to = event.key in ends ? ends[event.key] : here + (steps[event.key] ?? 0);
    if (to === here || !(to in opens)) {
      if (event.key in steps || event.key in ends) event.preventDefault();
      return;
    }
    event.preventDefault();
    opens[to].focus();
  });
}
