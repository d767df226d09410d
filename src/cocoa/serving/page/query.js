// The search field and the chips under it: what the search is made of, each with a way to take it out.

import { asks } from "./address.js";
import { pictureAddress } from "./api.js";
import { element, icon } from "./elements.js";
import { picture } from "./pictures.js";

const text = document.getElementById("text");
const chips = document.getElementById("chips");
let shownText = "";

/** Makes the field work; `change` takes what is to be different in the view. */
export function watchQuery(change) {
  const form = document.getElementById("query");
  const ask = () => change({ text: text.value.trim() });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  text.addEventListener("keydown", (event) => {
    // While a word is being composed, Enter belongs to the keyboard.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  text.addEventListener("input", fit);
  // Enter was pressed before the page could listen.
  if (text.value.endsWith("\n")) ask();
}

/** Shows a view in the field and the chips; `known` maps ids to hits that were seen. */
export function showQuery(view, known, change) {
  // What is being typed is touched only when the view asks for something else than before.
  if (view.text !== shownText) text.value = shownText = view.text;
  fit();
  document.body.classList.toggle("asking", asks(view));
  const without = (list, id) => list.filter((other) => other !== id);
  chips.replaceChildren(
    ...(view.picture ? [pictureChip(view.picture, () => change({ picture: null }))] : []),
    ...view.like.map((id) => documentChip("Like", id, known, () => change({ like: without(view.like, id) }))),
    ...view.unlike.map((id) =>
      documentChip("Less like", id, known, () => change({ unlike: without(view.unlike, id) })),
    ),
  );
}

/** Empties the field and puts the cursor into it. */
export function emptyQuery() {
  text.value = "";
  text.focus();
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight, 160)}px`;
}

function pictureChip(key, remove) {
  const kept = picture(key);
  const name = kept?.name ?? "a picture that was not kept";
  return chip("", name, kept?.preview, remove);
}

function documentChip(lead, id, known, remove) {
  const hit = known.get(id);
  return chip(lead, hit?.text || id, hit && pictureAddress(hit, "small"), remove, lead === "Like" ? "" : "against");
}

function chip(lead, name, preview, remove, kind = "") {
  const thumb = preview
    ? element("img", { src: preview, alt: "", on: { error: (event) => event.target.replaceWith(icon("picture")) } })
    : icon("picture");
  return element(
    "li",
    { class: `chip ${kind}`.trim() },
    thumb,
    lead && element("span", { class: "lead" }, lead),
    element("span", { class: "name", title: name }, name),
    element(
      "button",
      { type: "button", "aria-label": `Remove ${lead ? `“${lead.toLowerCase()}” ` : ""}${name}`, on: { click: remove } },
      icon("close"),
    ),
  );
}
