// What went wrong, in words for people: a title, what to do, and whether trying again can help.

const BY_CODE = {
  GONE: ["The server does not answer", "It may have been stopped or be starting up. Your search is kept.", "again"],
  E_IMAGE_OPEN: ["This file is not a picture", "Choose a JPEG, PNG, WebP, GIF, BMP or TIFF file.", null],
  E_IMAGE_FORMAT: ["This kind of picture is not read here", "Save it as JPEG or PNG and try that.", null],
  E_IMAGE_TRUNCATED: ["This picture is damaged", "It is cut short or broken. Get the file again.", null],
  E_IMAGE_TOO_LARGE: ["This picture is too large", "Make it smaller, then try again.", null],
  E_IMAGE_RATIO: ["This picture is too long and thin", "Crop it, then try again.", null],
  E_DATA_TOO_LONG: ["This is too long for the model", "Use fewer words or a smaller picture.", null],
  E_DATA_NO_PICTURE: ["This document has no picture", "Only pictures can be explained.", null],
  E_LIMIT_IMAGE: ["This picture is too large", "Make it smaller, then try again.", null],
  E_LIMIT_PIXELS: ["This picture is too large", "Make it smaller, then try again.", null],
  E_LIMIT_CHARACTERS: ["This is too long a text", "Use fewer words.", null],
  E_REQUEST_MODEL: ["This model is not here any more", "Reload the page to see which are.", "reload"],
  E_REQUEST_DOCUMENT: ["Its picture cannot be shown here", "It is gone, or lies outside the server's folders.", null],
  E_INDEX_ID: ["That document is no longer in the index", "Search again without it.", null],
};

const BY_STATUS = {
  401: ["This server asks for a key", "Reload the page and give the key as the password.", "reload"],
  403: ["This key may not search here", "Ask whoever runs the server for another.", "reload"],
  404: ["This server has no index to search", "Start it with an index: cocoa serve MODEL --index URI", null],
  408: ["The search did not arrive in time", "The connection is slow. Try again, or use a smaller picture.", "again"],
  413: ["This is more than the server takes", "Use a smaller picture or fewer words.", null],
  429: ["The server is busy", "Many people search at once.", "again"],
  503: ["The server is busy", "It is starting, stopping, or has too much to do.", "again"],
  504: ["The model took too long", "It may be busy. Try again, or search for something shorter.", "again"],
};

/** Returns {title, advice, remedy} of a Trouble; `remedy` is "again", "reload" or null. */
export function inWords(trouble) {
  const known = BY_CODE[trouble.code] ?? BY_STATUS[trouble.status];
  if (known) {
    const [title, advice, remedy] = known;
    const wait = remedy === "again" && trouble.wait ? ` Try again in ${Math.ceil(trouble.wait)} s.` : "";
    return { title, advice: advice + wait, remedy };
  }
  const own = trouble.status >= 500 || !trouble.message;
  return {
    title: own ? "Something went wrong on the server" : "The server cannot do this search",
    advice: own ? "It is not your search. Try again; if it stays, tell whoever runs the server." : trouble.message,
    remedy: own ? "again" : null,
  };
}
