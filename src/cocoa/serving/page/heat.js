// Why a picture matches, drawn over it: the picture goes grey, and glows where it speaks for the match.

import { element } from "./elements.js";

const ROWS = ["top", "middle", "bottom"];
const COLUMNS = ["left", "centre", "right"];

/** Returns a canvas with one pixel a piece of the picture; the style sheet lays it over the picture. */
export function heatMap({ rows, columns, values }) {
  const canvas = element("canvas", { class: "heat", width: columns, height: rows, role: "img" });
  canvas.setAttribute("aria-label", inWords({ rows, columns, values }));
  const brush = canvas.getContext("2d");
  const drawn = brush.createImageData(columns, rows);
  values.flat().forEach((value, place) => drawn.data.set(shade(value), 4 * place));
  brush.putImageData(drawn, 0, 0);
  return canvas;
}

// One colour, more or less of it: seen on light and dark ground, and by those who tell few colours apart.
const shade = (value) => [255, 112, 16, Math.round(255 * 0.78 * value)];

/** Returns in words where the match comes from: "Most of the match, 62 %, comes from the top left." */
export function inWords({ rows, columns, values }) {
  const shares = new Map();
  let whole = 0;
  values.forEach((line, row) =>
    line.forEach((value, column) => {
      const name = place(third(row, rows), third(column, columns));
      shares.set(name, (shares.get(name) ?? 0) + value);
      whole += value;
    }));
  if (!whole) return "No part of this picture speaks for the match more than the rest of it; its words may.";
  const [[name, share]] = [...shares].sort(([, a], [, b]) => b - a);
  const percent = Math.round((100 * share) / whole);
  return `${percent >= 50 ? "Most" : "The largest part"} of the match, ${percent} %, comes from the ${name}.`;
}

const third = (position, number) => Math.min(2, Math.floor((3 * (position + 0.5)) / number));
const place = (row, column) => (row === 1 && column === 1 ? "middle" : `${ROWS[row]} ${COLUMNS[column]}`);
