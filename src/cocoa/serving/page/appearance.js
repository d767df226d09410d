// The button that goes from the system's theme to light to dark; theme.js applies the choice on the next visit.

const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
const ORDER = Object.keys(NAMES);

/** Makes the theme button work and say what is chosen. */
export function watchTheme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const show = () => {
    const theme = root.dataset.theme in NAMES ? root.dataset.theme : "auto";
    document.getElementById("theme-name").textContent = NAMES[theme];
    button.setAttribute("aria-label", `Theme: ${NAMES[theme]}`);
    button.title = theme === "auto" ? "Theme: as your system has it" : `Theme: ${theme}`;
    return theme;
  };
  button.addEventListener("click", () => {
    root.dataset.theme = ORDER[(ORDER.indexOf(show()) + 1) % ORDER.length];
    show();
    try {
      localStorage.setItem("cocoa-theme", root.dataset.theme);
    } catch {
      // Without storage the choice lasts for this visit.
    }
  });
  show();
}
