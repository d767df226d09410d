// The page: one view (what is asked), one index (what there is to find), one answer (what is on the screen).

import { addressOf, asks, MOST, NOTHING, viewOf } from "./address.js";
import { found, searchesOf, sizeOf, unasked } from "./answers.js";
import { describeIndex, search, Trouble } from "./api.js";
import { watchTheme } from "./appearance.js";
import { labelOf, waysOf } from "./compare.js";
import { hideDetail, showDetail, watchDetail } from "./detail.js";
import { counted, element } from "./elements.js";
import { filterBody, showFilters, watchFilters } from "./filters.js";
import { failed, quiet, searching, told } from "./notice.js";
import { dataUrl, keep, picture, watchPictures } from "./pictures.js";
import { emptyQuery, showQuery, watchQuery } from "./query.js";
import { skeleton } from "./results.js";

const results = document.getElementById("results");
const compareButton = document.getElementById("compare");
const known = new Map(); // Every hit of this visit by its id: chips show them when the list has gone on.

let view = viewOf(location.href);
let index = null;
let describing = false; // Whether the server is being asked what there is.
let answer = null; // {key, panes: [{way, body, hits, seconds}], parts}; `body` is null where nothing was asked.
let request = null; // What ends the search under way; null where there is none.
let opened = null; // {show, side} of the hit that was looked at last: the focus goes back to it.

/** Changes the view, keeps the former for the back button, and shows the new one. */
function change(changes) {
  const next = { ...view, ...changes };
  if (addressOf(next) === addressOf(view)) return show({ anew: true });
  view = next;
  history.pushState({ inside: true }, "", addressOf(view));
  return show();
}

/** Changes what is asked: from the first hits on, and with nothing opened. */
const ask = (changes) => change({ size: NOTHING.size, show: null, side: 0, ...changes });

const act = {
  open: (hit, side = 0) => change({ show: hit.id, side }),
  more: (hit) => ask({ text: "", picture: null, like: [hit.id], unlike: [] }),
  less: (hit) => ask({ unlike: [...new Set([...view.unlike, hit.id])], like: view.like.filter((id) => id !== hit.id) }),
  further: () => change({ size: Math.min(view.size * 2, MOST) }),
  unfilter: () => ask({ filter: {} }),
  choose: (place, way) => ask({ compare: answer.panes.map((pane, number) => (number === place ? way : pane.way)) }),
  close: () => (history.state?.inside ? history.back() : change({ show: null, side: 0 })),
  step: (by) => {
    const next = hitsInOrder()[placeOfShown() + by];
    if (!next) return;
    view = { ...view, show: next.hit.id, side: next.side };
    history.replaceState(history.state, "", addressOf(view));
    showOpened();
  },
};

function show({ anew = false } = {}) {
  document.title = asks(view) ? `${view.text || "Like this"} · cocoa` : "Search · cocoa";
  showQuery(view, known, ask);
  if (!index) return start();
  compareButton.hidden = !asks(view) || waysOf(index).length < 2;
  compareButton.setAttribute("aria-pressed", String(view.compare !== null));
  showFilters(index, view.filter, asks(view), (filter) => ask({ filter }));
  const key = addressOf({ ...view, show: null, side: 0 });
  if (anew || answer?.key !== key) return find(key);
  leave();
  return showOpened();
}

/** Ends the search under way, if there is one, without a word: something else has the screen. */
function leave() {
  if (!request) return;
  request.abort();
  request = null;
  quiet();
  results.removeAttribute("aria-busy");
  if (answer) results.replaceChildren(...answer.parts); // Where there were no hits, the search has drawn empty cards.
}

async function find(key) {
  leave();
  hideDetail();
  if (!asks(view) || !index.count) {
    return finish(key, [{ way: null, body: null, hits: index.examples }], unasked(index, act));
  }
  if (view.picture && !picture(view.picture)) {
    finish(key, [], []);
    return told("The picture of this search was not kept", "Pictures leave the page with a reload. Drop it here again.");
  }
  const mine = (request = new AbortController());
  searching(() => mine.abort());
  results.setAttribute("aria-busy", "true");
  if (!results.querySelector(".card, .row")) results.replaceChildren(skeleton(12));
  try {
    const searches = searchesOf(view, index, bodyOfView());
    const answers = await Promise.all(searches.map(({ body }) => searched(body, mine.signal)));
    if (answers.every(({ trouble }) => trouble)) throw answers[0].trouble;
    const panes = answers.map((given, place) => ({ ...searches[place], ...given }));
    return finish(key, panes, found(view, index, panes, act));
  } catch (failure) {
    if (request !== mine) return undefined; // A newer search has the screen.
    mine.abort();
    const again = () => show({ anew: true });
    finish(null, [], []);
    if (failure.name === "AbortError") return told("Stopped", "The search was cancelled.", again, "Search again");
    if (failure instanceof Trouble) return failed(failure, again);
    throw failure;
  }
}

// Of two sides one may fail, where a document or column is known to the other model's index alone.
async function searched(body, signal) {
  try {
    return await search(body, signal);
  } catch (failure) {
    if (!view.compare || !(failure instanceof Trouble)) throw failure;
    return { hits: [], seconds: 0, trouble: failure };
  }
}

function finish(key, panes, parts) {
  quiet();
  request = null;
  answer = { key, panes, parts };
  for (const hit of panes.flatMap((pane) => pane.hits)) known.set(hit.id, hit);
  results.removeAttribute("aria-busy");
  results.replaceChildren(...parts);
  showQuery(view, known, ask);
  showOpened();
}

function bodyOfView() {
  const filter = filterBody(view.filter, index.columns);
  return {
    ...(view.text.trim() && { text: view.text.trim() }),
    ...(view.picture && { image: dataUrl(view.picture) }),
    ...(view.like.length && { like: view.like }),
    ...(view.unlike.length && { unlike: view.unlike }),
    ...(filter && { filter }),
    k: sizeOf(view, index),
  };
}

const hitsInOrder = () => answer.panes.flatMap((pane, side) => pane.hits.map((hit) => ({ hit, side, pane })));

/** Where the opened hit stands among all: in its own list if it is there, in the other one otherwise. */
function placeOfShown() {
  const hits = hitsInOrder();
  const here = hits.findIndex(({ hit, side }) => hit.id === view.show && side === view.side);
  return here >= 0 ? here : hits.findIndex(({ hit }) => hit.id === view.show);
}

function showOpened() {
  const hits = hitsInOrder();
  const place = view.show === null ? -1 : placeOfShown();
  if (place >= 0) {
    const { hit, side, pane } = hits[place];
    opened = { show: hit.id, side };
    const by = view.compare && pane.way && labelOf(index, pane.way);
    showDetail(hit, { query: pane.body, by, place, total: hits.length, act });
    return;
  }
  hideDetail();
  if (opened !== null) {
    const rows = [...results.querySelectorAll(`[data-id="${CSS.escape(opened.show)}"]`)];
    (rows.find((row) => row.dataset.side === String(opened.side)) ?? rows[0])?.focus();
  }
  opened = null;
}

/** Asks what there is to search, and then shows what the view asks for by then. */
async function start() {
  if (describing) return undefined;
  describing = true;
  results.replaceChildren(skeleton(12));
  searching(null);
  try {
    index = await describeIndex();
  } catch (failure) {
    results.replaceChildren();
    if (failure instanceof Trouble) return failed(failure, start);
    throw failure;
  } finally {
    describing = false;
  }
  document.getElementById("count").textContent = index.count ? counted(index.count, "document") : "";
  return show();
}

async function searchWith(file) {
  let key;
  try {
    key = await keep(file);
  } catch {
    return told("This file cannot be read", "It may be a folder, or be gone. Choose another one.");
  }
  return ask({ picture: key });
}

watchTheme();
watchFilters();
watchDetail(act);
watchQuery(ask);
watchPictures(searchWith);
compareButton.addEventListener("click", () => change({ compare: view.compare ? null : [], show: null, side: 0 }));
document.getElementById("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  change({ ...NOTHING });
  emptyQuery();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && results.hasAttribute("aria-busy")) request?.abort();
});
addEventListener("popstate", () => {
  view = viewOf(location.href);
  show();
});
show();
