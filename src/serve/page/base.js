"use strict";

// ---- Small things ----

const $ = id => document.getElementById(id);

/** A new element with these properties and children; strings become text nodes. */
function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Sets text only where it differs, so that nothing is laid out or selected anew without need. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const count = n => n.toLocaleString("en");
const fixed = (n, digits) => n.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
/** Three digits or more. */
const figure = n => n ? fixed(n, n < 10 ? 2 : n < 100 ? 1 : 0) : "0";
const many = (n, thing) => `${count(n)} ${thing}${n === 1 ? "" : "s"}`;
const tokens = n => many(n, "token");
const binary = bytes => {
  let i = 0;
  for (; bytes >= 1024 && i < 4; i++) bytes /= 1024;
  return `${i ? figure(bytes) : bytes} ${["B", "KiB", "MiB", "GiB", "TiB"][i]}`;
};
const span = s => s < 60 ? `${Math.floor(s)} s` : s < 3600 ? `${Math.floor(s / 60)} min` : `${count(Math.floor(s / 3600))} h`;

/** Announces a text to screen readers: what starts and ends, never the tokens. */
const say = text => put($("say"), text);

const button = (text, onclick, more) => make("button", { type: "button", onclick, ...more }, text);

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // without https there is no clipboard, except on localhost
    const source = make("textarea", { value: text });
    document.body.append(source);
    source.select();
    document.execCommand("copy");
    source.remove();
    button.focus();
  }
  const before = button.textContent === "Copied" ? "Copy" : button.textContent;
  put(button, "Copied");
  setTimeout(put, 1500, button, before);
}

/** JSON of a storage of the browser; null where there is none. Even to name a storage is an error where it is forbidden. */
function kept(storage, name) {
  try { return JSON.parse(window[storage].getItem(name)); } catch { return null; }
}

/** Keeps JSON in a storage; false where there is no room, or no storage. */
function keepIn(storage, name, value) {
  try { window[storage].setItem(name, JSON.stringify(value)); return true; } catch { return false; }
}
