// Filters from the index's columns: boxes to tick for words and yes/no, ranges for numbers.

import { element, numbered } from "./elements.js";

const FEW = 8;

/** Returns the server's filter of what is wanted of each column, or null. Within a column any value will do. */
export function filterBody(wanted, columns) {
  const parts = Object.entries(wanted).flatMap(([column, wish]) => {
    if (!(column in columns)) return [];
    if (Array.isArray(wish)) return wish.length ? [{ column, op: "in", value: wish }] : [];
    const ends = [];
    if (Number.isFinite(wish.from)) ends.push({ column, op: ">=", value: wish.from });
    if (Number.isFinite(wish.to)) ends.push({ column, op: "<=", value: wish.to });
    if (wish.contains) ends.push({ column, op: "contains", value: wish.contains });
    return ends;
  });
  if (!parts.length) return null;
  return parts.length === 1 ? parts[0] : { and: parts };
}

/** Shows a group for each column, once something is asked for; `change` takes the new filter. */
export function showFilters(index, wanted, asked, change) {
  const side = document.getElementById("side");
  const form = document.getElementById("filters");
  const columns = Object.keys(index.columns).filter((column) => column in index.facets);
  side.hidden = !columns.length || !asked;
  document.getElementById("fold-name").textContent = labelled(Object.keys(wanted).length);
  // Redrawn only when something else changed the filter: a field that is being typed in keeps its cursor.
  const state = JSON.stringify([wanted, columns]);
  if (form.dataset.state === state) return;
  form.dataset.state = state;
  const open = new Set(Array.from(form.querySelectorAll("details[open]"), (details) => details.dataset.column));
  const focused = document.activeElement?.id;
  const set = (column, wish) => {
    const next = { ...wanted };
    if (wish === null) delete next[column];
    else next[column] = wish;
    change(next);
  };
  form.replaceChildren(
    element("div", { class: "side-head" },
      element("h2", {}, "Filters"),
      Object.keys(wanted).length > 0 &&
        element("button", { type: "button", class: "quiet", id: "clear", on: { click: () => change({}) } }, "Clear"),
    ),
    ...columns.map((column) => group(column, index, wanted[column] ?? null, (wish) => set(column, wish), open)),
  );
  if (focused) form.querySelector(`[id="${CSS.escape(focused)}"]`)?.focus();
}

/** Makes the filters fold away where there is little room, and keeps Enter from leaving the page. */
export function watchFilters() {
  const fold = document.getElementById("fold");
  const side = document.getElementById("side");
  fold.addEventListener("click", () => {
    const open = side.classList.toggle("open");
    fold.setAttribute("aria-expanded", String(open));
  });
  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
}

const labelled = (number) => (number ? `Filters (${number})` : "Filters");

function group(column, index, wish, set, open) {
  const facet = index.facets[column];
  const inside = facet.values ? boxes(column, facet, wish, set, open) : range(column, facet, wish, set);
  return element("fieldset", { class: "group" }, element("legend", {}, column.replaceAll("_", " ")), inside);
}

function boxes(column, facet, wish, set, open) {
  const ticked = Array.isArray(wish) ? wish : [];
  const tick = (value, on) => {
    const next = on ? [...ticked, value] : ticked.filter((other) => other !== value);
    set(next.length ? next : null);
  };
  const rows = facet.values.map(({ value, count }, number) => {
    const id = `filter-${column}-${number}`;
    return element("div", { class: "box" },
      element("input", {
        type: "checkbox", id, checked: ticked.includes(value),
        on: { change: (event) => tick(value, event.target.checked) },
      }),
      element("label", { for: id }, element("span", { class: "value" }, spoken(value)),
        element("span", { class: "number" }, numbered(count))),
    );
  });
  const rest = rows.splice(FEW);
  const parts = [...rows];
  if (rest.length) {
    const shown = open.has(column) || rest.some((row) => row.querySelector("input").checked);
    parts.push(element("details", { "data-column": column, open: shown },
      element("summary", {}, `${rest.length} more`), ...rest));
  }
  if (!facet.complete) parts.push(containing(column, wish, set));
  return parts;
}

function containing(column, wish, set) {
  return element("input", {
    type: "search", class: "entry", id: `filter-${column}-contains`, value: wish?.contains ?? "",
    placeholder: "contains…", "aria-label": `${column} contains`,
    on: { change: (event) => set(event.target.value.trim() ? { contains: event.target.value.trim() } : null) },
  });
}

function range(column, facet, wish, set) {
  const ends = { from: wish?.from, to: wish?.to };
  const field = (end, label, hint) =>
    element("input", {
      type: "number", class: "entry", id: `filter-${column}-${end}`, step: facet.kind === "int" ? "1" : "any",
      value: ends[end] ?? "", placeholder: hint === undefined || hint === null ? label : short(hint),
      "aria-label": `${column} ${label}`,
      on: {
        change: (event) => {
          const value = Number.parseFloat(event.target.value);
          const next = { ...ends, [end]: Number.isFinite(value) ? value : undefined };
          set(next.from === undefined && next.to === undefined ? null : next);
        },
      },
    });
  return element("div", { class: "range" },
    field("from", "from", facet.min), element("span", { "aria-hidden": "true" }, "–"), field("to", "to", facet.max));
}

const spoken = (value) => (value === true ? "yes" : value === false ? "no" : value === null ? "none" : String(value) || "empty");
const short = (value) => (Number.isInteger(value) ? String(value) : value.toPrecision(4).replace(/\.?0+$/, ""));
