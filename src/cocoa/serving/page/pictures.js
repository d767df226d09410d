// The pictures that people search with: kept as they came, for this visit only, and never put into the address.

const kept = new Map();

/** Keeps a file and returns its key. */
export async function keep(file) {
  const content = new Uint8Array(await file.arrayBuffer());
  const key = await digest(content);
  if (!kept.has(key)) {
    kept.set(key, { name: file.name || "pasted picture", content, preview: URL.createObjectURL(file) });
  }
  return key;
}

/** Returns {name, preview} of a kept picture, or null: after a reload there are none. */
export const picture = (key) => kept.get(key) ?? null;

/** Returns the picture's bytes as a data URL; they are not touched, so the vector is that of the file. */
export function dataUrl(key) {
  const { content } = kept.get(key);
  const pieces = [];
  for (let start = 0; start < content.length; start += 0x8000) {
    pieces.push(String.fromCharCode(...content.subarray(start, start + 0x8000)));
  }
  return `data:${kindOf(content)};base64,${btoa(pieces.join(""))}`;
}

const STARTS = [
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
  ["image/webp", [0x52, 0x49, 0x46, 0x46]],
  ["image/bmp", [0x42, 0x4d]],
];

// The server looks at the bytes and says what it cannot read; the name is for those that ask for one.
function kindOf(content) {
  return STARTS.find(([, start]) => start.every((byte, place) => content[place] === byte))?.[0] ?? "image/tiff";
}

// Only a name for the address: where the page is not served over https or loopback there is no crypto.subtle.
async function digest(content) {
  if (!crypto.subtle) return `${content.length}-${kept.size}`;
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(bytes.subarray(0, 6), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Calls `found` with every picture file that is dropped, pasted or chosen. */
export function watchPictures(found) {
  const drop = document.getElementById("drop");
  const file = document.getElementById("file");
  let inside = 0;
  const carriesFiles = (event) => Array.from(event.dataTransfer?.types ?? []).includes("Files");
  const show = (shown) => drop.classList.toggle("shown", shown);

  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    inside += 1;
    show(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    inside = Math.max(0, inside - 1);
    if (!inside) show(false);
  });
  document.addEventListener("dragover", (event) => {
    if (carriesFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    inside = 0;
    show(false);
    if (event.dataTransfer.files.length) found(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const pasted = Array.from(event.clipboardData?.files ?? []);
    if (!pasted.length) return;
    event.preventDefault();
    found(pasted[0]);
  });
  document.getElementById("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) found(file.files[0]);
    file.value = ""; // The same file can then be chosen again.
  });
}
