// The one place under the search field where the page says what it is doing and what went wrong.

import { element } from "./elements.js";
import { inWords } from "./messages.js";

const place = document.getElementById("notice");
const SLOW_MS = 1000;
let ticking = null;

/** Takes away what was said. */
export function quiet() {
  clearInterval(ticking);
  place.replaceChildren();
}

/** Says after a second that it is still being searched, how long already, with a way to stop if there is one. */
export function searching(cancel) {
  quiet();
  const began = performance.now();
  ticking = setInterval(() => {
    const elapsed = performance.now() - began;
    if (elapsed < SLOW_MS) return;
    if (!place.firstChild) {
      place.replaceChildren(element("div", { class: "working" },
        element("span", { class: "dots", "aria-hidden": "true" }, element("i"), element("i"), element("i")),
        element("span", {}, "Still searching"),
        // Counted for the eye alone: it would be read out every second.
        element("span", { class: "seconds", "aria-hidden": "true" }),
        cancel && element("button", { type: "button", class: "quiet", id: "cancel", on: { click: cancel } }, "Cancel")));
    }
    place.querySelector(".seconds").textContent = `${Math.floor(elapsed / 1000)} s`;
  }, 200);
}

/** Says what went wrong and offers what can be done about it. */
export function failed(trouble, again) {
  quiet();
  const { title, advice, remedy } = inWords(trouble);
  const buttons = {
    again: () => element("button", { type: "button", class: "primary", id: "again", on: { click: again } }, "Try again"),
    reload: () => element("button", { type: "button", class: "primary", on: { click: () => location.reload() } }, "Reload"),
  };
  place.replaceChildren(said(title, advice, remedy && buttons[remedy](), "trouble"));
}

/** Says something that is not an error, with a button if there is something to do about it. */
export function told(title, advice, act = null, label = "") {
  quiet();
  const button = act && element("button", { type: "button", class: "primary", id: "again", on: { click: act } }, label);
  place.replaceChildren(said(title, advice, button, ""));
}

/** Returns a panel with a title, a sentence and perhaps a button. */
export function said(title, advice, button, kind) {
  return element("div", { class: `said ${kind}`.trim(), role: kind === "trouble" ? "alert" : null },
    element("div", {}, element("h2", {}, title), element("p", {}, advice)), button);
}
