// Runs before anything is painted, so that a chosen theme does not flash in after the other one.
const THEME_KEY = "cocoa-theme";
let chosenTheme = "auto";
try {
  chosenTheme = localStorage.getItem(THEME_KEY) ?? "auto";
} catch {
  // Storage may be forbidden; the page then follows the system.
}
document.documentElement.dataset.theme = chosenTheme;
