// Talking to the server: one function a route, every failure a Trouble that can be said in words.

/** A failure of a request: `code` and `status` as the server gave them, "GONE" if there was no answer at all. */
export class Trouble extends Error {
  constructor(code, message, { status = 0, wait = null } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    this.wait = wait;
  }
}

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { accept: "application/json", ...options.headers } });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Trouble("GONE", "no answer");
  }
  let body = null;
  try {
    body = await answer.json();
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    if (answer.ok) throw new Trouble("GONE", "the answer was cut short");
  }
  if (answer.ok) return body;
  const wait = Number.parseFloat(answer.headers.get("retry-after") ?? "");
  throw new Trouble(body?.error?.code ?? "", body?.error?.message ?? "", {
    status: answer.status,
    wait: Number.isFinite(wait) ? wait : null,
  });
}

const post = (path, body, signal) =>
  call(path, { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" }, signal });

/** Returns what there is to search: count, columns, facets, models, their dimensions, examples. */
export const describeIndex = (signal) => call("v1/index", { signal });

/** Returns the hits of a query, best first. */
export const search = (body, signal) => post("v1/search", body, signal);

/** Returns which pieces of a document's picture speak for the match. */
export const explain = (body, signal) => post("v1/explain", body, signal);

/** Returns the address of a hit's picture: "small" for a tile, "large" for a closer look. */
export function pictureAddress(hit, size) {
  if (!hit.image) return null;
  const address = new URL(hit.image.replace(/^\//, ""), document.baseURI);
  address.searchParams.set("size", size);
  return address.href;
}
