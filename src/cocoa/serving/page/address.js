// What is asked for, and its place in the address bar: the back button and a copied link bring the same view again.

/**
 * The view before anything is asked. `picture` is a key of `pictures.js`; `filter` maps a column to what is wanted;
 * `show` is the id of the hit that is opened, and `side` the one of two lists that it is in.
 */
export const NOTHING = Object.freeze({
  text: "",
  picture: null,
  like: [],
  unlike: [],
  filter: {},
  size: 24,
  compare: null,
  show: null,
  side: 0,
});

/** The most hits that are shown. */
export const MOST = 240;

/** Returns whether the view asks for anything to be found. */
export const asks = (view) => Boolean(view.text.trim() || view.picture || view.like.length);

/** Returns the view of an address; what cannot be read is left out. */
export function viewOf(address) {
  const given = new URL(address).searchParams;
  return {
    text: given.get("text") ?? "",
    picture: given.get("picture"),
    like: given.getAll("like"),
    unlike: given.getAll("unlike"),
    filter: parsed(given.get("filter")),
    size: Math.min(Math.max(Number.parseInt(given.get("size") ?? "", 10) || NOTHING.size, 1), MOST),
    compare: given.has("compare") ? given.getAll("compare").filter(Boolean).slice(0, 2) : null,
    show: given.get("show"),
    side: given.get("side") === "1" ? 1 : 0,
  };
}

/** Returns the address of a view, relative to the page. */
export function addressOf(view) {
  const given = new URLSearchParams();
  if (view.text) given.set("text", view.text);
  if (view.picture) given.set("picture", view.picture);
  for (const id of view.like) given.append("like", id);
  for (const id of view.unlike) given.append("unlike", id);
  if (Object.keys(view.filter).length) given.set("filter", JSON.stringify(view.filter));
  if (view.size !== NOTHING.size) given.set("size", view.size);
  // An empty one says that two are compared, whichever the server offers first.
  for (const way of view.compare?.length ? view.compare : view.compare ? [""] : []) given.append("compare", way);
  if (view.show !== null) given.set("show", view.show);
  if (view.show !== null && view.side) given.set("side", view.side);
  const query = given.toString();
  return query ? `?${query}` : "./";
}

function parsed(text) {
  try {
    const filter = JSON.parse(text ?? "{}");
    if (!filter || typeof filter !== "object" || Array.isArray(filter)) return {};
    return Object.fromEntries(Object.entries(filter).filter(([, wish]) => wish && typeof wish === "object"));
  } catch {
    return {};
  }
}
