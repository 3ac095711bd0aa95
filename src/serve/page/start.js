// ---- Theme and folding ----

const themes = ["system", "light", "dark"];
let theme = Math.max(themes.indexOf(kept("localStorage", "theme")), 0);

function setTheme() {
  const name = themes[theme];
  document.documentElement.style.colorScheme = theme ? name : "light dark";
  $("theme").ariaLabel = $("theme").title = `Theme: ${name}`;
  keepIn("localStorage", "theme", name);
  mixColours();
  layOut();
}

$("theme").onclick = () => { theme = (theme + 1) % 3; setTheme(); };
matchMedia("(prefers-color-scheme: dark)").onchange = setTheme;

function showSide(open) {
  side.hidden = !open;
  fold.ariaExpanded = open;
}

fold.onclick = () => {
  keepIn("localStorage", "side", side.hidden);
  showSide(side.hidden);
};

// ---- Start ----

window.onpagehide = () => {
  for (const run of runs.values()) save(run.chat);
  keepIn("sessionStorage", "draft", field.value);
};

(async () => {
  readSettings();
  setTheme();
  showSide(kept("localStorage", "side") ?? innerWidth >= 900);
  connect();
  field.value = kept("sessionStorage", "draft") || "";
  grow();
  await openStore();
  const current = kept("sessionStorage", "current"), found = typeof current === "string" && await load(current);
  show(found || chat);
  showChats(!isNarrow() && (kept("localStorage", "chats open") ?? true));
  if (matchMedia("(pointer: fine)").matches) field.focus();
})();
