// One hit from close by: its picture with the map of why it matches, all its words and columns, and where to go on.

import { explain, pictureAddress, Trouble } from "./api.js";
import { element, icon } from "./elements.js";
import { heatMap, inWords as placeInWords } from "./heat.js";
import { inWords } from "./messages.js";
import { face, meter, scored, titled } from "./results.js";

const dialog = document.getElementById("detail");
let asking = null;

/** Makes the dialog close by Escape and a click beside it, and go on by arrows; `act` is {close, step}. */
export function watchDetail(act) {
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    act.close();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) act.close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return; // With these the arrows are the browser's.
    if (event.key === "ArrowRight") act.step(1);
    if (event.key === "ArrowLeft") act.step(-1);
  });
}

/** Closes the dialog. */
export function hideDetail() {
  asking?.abort();
  if (dialog.open) dialog.close();
}

/** Opens a hit; `query` is the body of the search that found it, null where there was none; `by` says which of two. */
export function showDetail(hit, { query, by, place, total, act }) {
  asking?.abort();
  const had = dialog.open ? dialog.ownerDocument.activeElement?.id : null;
  const title = titled(hit);
  const shown = element("div", { class: "picture" }, face(hit, "large"));
  const said = element("p", { class: "why-words", role: "status" });
  const image = shown.querySelector("img");
  if (image) frame(image, shown);
  else shown.classList.add("of-words");
  const why = element("div", { class: "why" });
  if (query && hit.image) why.append(whyButton(hit, query, shown, why, said), element("p", { class: "key", "aria-hidden": "true" }, element("span")), said);
  dialog.replaceChildren(
    element("div", { class: "stage" }, shown, why.firstChild && why),
    element("div", { class: "facts" },
      element("div", { class: "facts-head" },
        step("back", "Previous hit", place > 0, () => act.step(-1)),
        element("span", { class: "place" }, `${place + 1} of ${total}`),
        step("next", "Next hit", place < total - 1, () => act.step(1)),
        element("button", { type: "button", class: "step", id: "close-detail", "aria-label": "Close", on: { click: act.close } },
          icon("close"))),
      element("h2", { id: "detail-title", class: hit.image ? "" : "unseen" }, title),
      query && element("div", { class: "score large" },
        element("span", { title: "Cosine with the query" }, scored(hit.score)), meter(hit.score)),
      element("div", { class: "follow-up" },
        element("button", { type: "button", class: "primary", on: { click: () => act.more(hit) } }, icon("more"), "More like this"),
        query && element("button", { type: "button", class: "tool", on: { click: () => act.less(hit) } }, icon("less"), "Less like this")),
      element("dl", { class: "columns" },
        element("dt", {}, "id"), element("dd", {}, element("span", { class: "id" }, hit.id), copyButton(hit.id)),
        by && [element("dt", {}, "found with"), element("dd", {}, by)],
        Object.entries(hit.columns ?? {}).flatMap(([name, value]) => [
          element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, spoken(value))]))));
  if (!dialog.open) dialog.showModal();
  const stay = had && dialog.querySelector(`[id="${CSS.escape(had)}"]:not([disabled])`);
  (stay || dialog.querySelector("#close-detail")).focus();
}

// The picture's box has the picture's shape, so that the map lies on it exactly.
function frame(image, shown) {
  const fit = () => shown.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
  if (image.complete && image.naturalWidth) fit();
  else image.addEventListener("load", fit);
}

function whyButton(hit, query, shown, why, said) {
  const button = element("button", { type: "button", class: "tool", id: "why", "aria-pressed": "false" },
    icon("spark"), "Why this match?");
  let map = null;
  const show = (on) => {
    button.setAttribute("aria-pressed", String(on));
    shown.classList.toggle("explained", on);
    why.classList.toggle("shown", on);
    said.textContent = on ? map.words : "";
  };
  button.addEventListener("click", async () => {
    if (map) return show(button.getAttribute("aria-pressed") === "false");
    asking?.abort();
    const request = (asking = new AbortController());
    button.setAttribute("aria-busy", "true");
    said.textContent = "Looking…";
    try {
      const found = await explain({ ...query, id: hit.id }, request.signal);
      map = { words: placeInWords(found) };
      shown.append(heatMap(found));
      show(true);
    } catch (failure) {
      if (failure.name === "AbortError") return undefined;
      if (!(failure instanceof Trouble)) throw failure;
      const { title, advice } = inWords(failure);
      said.textContent = `${title}. ${advice}`;
    } finally {
      button.removeAttribute("aria-busy");
    }
    return undefined;
  });
  return button;
}

function step(name, label, possible, act) {
  return element("button",
    { type: "button", class: "step", id: `step-${name}`, "aria-label": label, disabled: !possible, on: { click: act } },
    icon(name));
}

function copyButton(id) {
  const button = element("button", { type: "button", class: "copy", "aria-label": "Copy the id" }, icon("copy"));
  const told = element("span", { class: "copied", role: "status" });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(id);
      told.textContent = "copied";
    } catch {
      // Browsers forbid it over plain http from elsewhere: then the id is selected, ready to be copied by hand.
      getSelection().selectAllChildren(button.previousSibling);
      told.textContent = "selected";
    }
  });
  return element("span", {}, button, told);
}

const spoken = (value) => (value === true ? "yes" : value === false ? "no" : value === null ? "–" : String(value));
