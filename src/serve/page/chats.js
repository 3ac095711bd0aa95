// ---- Conversations: how they are kept, exported and imported ----
//
// A conversation: { id, title, updated (ms), first: the first turn that is sent, turns }. A turn: { question, files:
// [{ name, text }], answer }. An answer: { content, reasoning, thought_s, calls: [{ id, name, arguments }], warnings,
// facts: figures by name, ending: why it ended early, error: why there is none }; while it is given, also `live`.

const newAnswer = () => ({ content: "", reasoning: "", thought_s: 0, calls: [], warnings: [], facts: {}, ending: "", error: "", live: true });
const newChat = () => ({ id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, title: "", updated: Date.now(), first: 0, turns: [] });

/** The first words of the first question. */
function titleOf({ turns }) {
  const words = (turns[0]?.question || turns[0]?.files[0]?.name || "New chat").trim().split(/\s+/).slice(0, 12).join(" ");
  return words.length <= 52 ? words : `${words.slice(0, 52).replace(/\s+\S*$/, "")}…`;
}

/** A conversation made of the valid fields of something that came from outside; an error names the place of one that is not. */
function cleanChat(thing, place) {
  const fail = (where, expected) => { throw new Error(`${where}: expected ${expected}`); };
  const object = (value, where) => value && typeof value === "object" && !Array.isArray(value) ? value : fail(where, "an object");
  const text = (value, where, most = 8e6) =>
    value === undefined ? "" : typeof value === "string" && value.length <= most ? value : fail(where, `text of at most ${most} characters`);
  const number = (value, where) => value === undefined ? 0 : Number.isFinite(value) && value >= 0 ? value : fail(where, "a number from 0");
  const items = (value, where, one, most = 10_000) => value === undefined ? []
    : Array.isArray(value) && value.length <= most ? value.map((item, i) => one(item, `${where}[${i}]`)) : fail(where, `at most ${most} items`);
  const file = (value, where) => ({ name: text(object(value, where).name, `${where}.name`, 300), text: text(value.text, `${where}.text`) });
  const call = (value, where) => ({ id: text(object(value, where).id, `${where}.id`, 300),
    name: text(value.name, `${where}.name`, 300), arguments: text(value.arguments, `${where}.arguments`) });
  const answer = (value, where) => {
    const facts = object(object(value, where).facts ?? {}, `${where}.facts`), at = name => `${where}.${name}`;
    return { ...newAnswer(), live: Boolean(value.live), content: text(value.content, at("content")), reasoning: text(value.reasoning, at("reasoning")),
      thought_s: number(value.thought_s, at("thought_s")), calls: items(value.calls, at("calls"), call, 1000),
      warnings: items(value.warnings, at("warnings"), (item, where) => text(item, where, 10_000), 100),
      ending: text(value.ending, at("ending"), 1000), error: text(value.error, at("error"), 10_000),
      facts: Object.fromEntries(FACTS.filter(name => Number.isFinite(facts[name])).map(name => [name, facts[name]])) };
  };
  const turn = (value, where) => ({ question: text(object(value, where).question, `${where}.question`),
    files: items(value.files, `${where}.files`, file, 100), answer: answer(value.answer ?? {}, `${where}.answer`) });
  object(thing, place);
  const turns = items(thing.turns, `${place}.turns`, turn);
  const chat = { ...newChat(), turns, updated: number(thing.updated, `${place}.updated`), first: Math.min(number(thing.first, `${place}.first`) | 0, turns.length) };
  if (thing.id !== undefined) chat.id = text(thing.id, `${place}.id`, 100);
  chat.title = text(thing.title, `${place}.title`, 200) || titleOf(chat);
  for (const { answer } of turns) {
    if (answer.live) Object.assign(answer, { live: false, ending: "The page was closed before the answer was complete." });
  }
  return chat;
}

const FACTS = ["prompt", "cached", "answer", "wait_s", "answer_s", "read_tps", "hits", "misses"];

/** The end of a request to the browser's database. */
const completed = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Keeps conversations in the browser's database. */
async function databaseStore() {
  const opening = indexedDB.open("infall", 1);
  opening.onupgradeneeded = () => opening.result.createObjectStore("chats", { keyPath: "id" });
  const database = await completed(opening);
  const chats = mode => database.transaction("chats", mode).objectStore("chats");
  return {
    isLasting: true,
    get: id => completed(chats("readonly").get(id)),
    put: chat => completed(chats("readwrite").put(chat)),
    remove: id => completed(chats("readwrite").delete(id)),
    /** Calls with each conversation, one after the other, until the function says false. */
    each: visit => new Promise((resolve, reject) => {
      const request = chats("readonly").openCursor();
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || visit(cursor.value) === false) resolve();
        else cursor.continue();
      };
    }),
  };
}

/** Keeps conversations in this tab, where the browser has no database. */
function tabStore() {
  const before = kept("sessionStorage", "chats"), all = new Map(Array.isArray(before) ? before.map(chat => [chat?.id, chat]) : []);
  const keep = () => {
    if (!keepIn("sessionStorage", "chats", [...all.values()])) throw new Error("there is no room");
  };
  return {
    isLasting: false,
    get: async id => all.get(id),
    put: async chat => { all.set(chat.id, JSON.parse(JSON.stringify(chat))); keep(); },
    remove: async id => { all.delete(id); keep(); },
    each: async visit => { for (const chat of all.values()) if (visit(chat) === false) return; },
  };
}

/** Where conversations are kept; what is known of each: { id, title, updated }; the one that is shown. */
let store = tabStore(), heads = new Map(), chat = newChat();
const otherTabs = "BroadcastChannel" in window ? new BroadcastChannel("infall chats") : null;

const headOf = ({ id, title, updated }) => ({ id, title, updated });

/** Saves a conversation, unless nothing was said in it; false when that is not possible. */
async function save(which) {
  if (which.isRemoved || !which.turns.length) return true;
  heads.set(which.id, headOf(which));
  try {
    const { isRemoved, ...plain } = which;
    await store.put(plain);
    otherTabs?.postMessage(which.id);
    return true;
  } catch (error) {
    notify(`This conversation could not be saved: ${error.message}. Export keeps it.`);
    return false;
  }
}

/** Reads a conversation; null when there is none, or none that is valid. */
async function load(id) {
  try {
    const found = await store.get(id);
    return found ? cleanChat(found, "chat") : null;
  } catch (error) {
    console.error(error);
    return null;
  }
}

async function openStore() {
  try { store = await databaseStore(); } catch {
    store = tabStore();
    $("storage").hidden = false;
    put($("storage"), "This browser keeps no data for this page: conversations are forgotten with this tab. Export keeps them.");
    put($("where"), "Conversations are forgotten with this tab.");
  }
  await store.each(found => {
    if (typeof found?.id === "string") heads.set(found.id, { id: found.id, title: String(found.title), updated: Number(found.updated) || 0 });
  });
}

if (otherTabs) otherTabs.onmessage = async ({ data: id }) => {
  const stored = await store.get(id), found = stored && await load(id);
  if (!found) heads.delete(id);
  else heads.set(id, headOf(found));
  showList();
  // What another tab added is shown when it is complete, unless something is under way here.
  const isUnderWay = runs.has(id) || document.querySelector(".editor") || stored?.turns.some(({ answer }) => answer?.live);
  if (!found || id !== chat.id || isUnderWay) return;
  const { scrollTop } = log, followed = follow;
  show(found);
  if (!followed) log.scrollTop = scrollTop;
};

async function remove(id) {
  const found = id === chat.id ? chat : await load(id);
  if (!found) return;
  runs.get(id)?.control.abort();
  found.isRemoved = true;
  heads.delete(id);
  await store.remove(id);
  otherTabs?.postMessage(id);
  if (id === chat.id) fresh();
  showList();
  notify(`“${found.title}” was deleted.`, "Undo", async () => {
    found.isRemoved = false;
    await save(found);
    show(found);
  });
}

/** Hands a file to the user. */
function download(name, data) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

async function exportChats(id) {
  const chats = [];
  if (id) chats.push(id === chat.id ? chat : await load(id));
  else await store.each(found => { chats.push(found.id === chat.id ? chat : found); });
  const day = new Date().toISOString().slice(0, 10), title = id && chats[0].title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40);
  download(`infall-${title || "chats"}-${day}.json`, { infall_chats: 1, chats });
}

async function importChats(file) {
  try {
    if (file.size > 256e6) throw new Error(`the file has ${binary(file.size)}, at most 256 MB are read`);
    const data = JSON.parse(await file.text());
    if (data?.infall_chats !== 1 || !Array.isArray(data.chats)) throw new Error("expected an export of this page");
    let added = 0;
    const refused = [];
    for (const [i, thing] of data.chats.entries()) {
      try {
        // An import adds, it never replaces: each gets a new id.
        if (!await save({ ...cleanChat(thing, `chats[${i}]`), id: newChat().id })) return;
        added++;
      } catch (error) { refused.push(error.message); }
    }
    notify(`${many(added, "conversation")} imported.${refused.length ? ` ${refused.length} refused: ${refused[0]}` : ""}`);
  } catch (error) {
    notify(`${file.name} was not imported: ${error.message}`);
  }
  showList();
}

// ---- Conversations: the list ----

/** Ids of those that have what is looked for; null when nothing is. How many rows are shown. */
let matching = null, searching = 0, shown = 200;

async function search() {
  const sought = $("search").value.trim().toLowerCase(), mine = ++searching;
  if (!sought) matching = null;
  else {
    const found = new Set(), has = text => String(text ?? "").toLowerCase().includes(sought);
    await store.each(({ id, title, turns }) => {
      if (has(title) || turns?.some(turn => has(turn?.question) || has(turn?.answer?.content))) found.add(id);
      return mine === searching;
    });
    if (mine !== searching) return;
    matching = found;
  }
  showList();
}

function age(then) {
  const days = Math.floor((Date.now() - then) / 86_400_000);
  return days < 1 ? "" : days < 100 ? `${days} d` : new Date(then).toISOString().slice(0, 7);
}

function showList() {
  if ($("list").querySelector("input")) return; // a title is being written
  const sorted = [...heads.values()].filter(({ id }) => matching?.has(id) ?? true).sort((a, b) => b.updated - a.updated);
  const rows = sorted.slice(0, shown).map(({ id, title, updated }) => {
    const isShown = id === chat.id;
    const opening = make("button", { type: "button", className: "title", title, onclick: () => choose(id) }, make("span", {}, title), make("small", {}, age(updated)));
    if (isShown) opening.ariaCurrent = "true";
    if (runs.has(id)) opening.classList.add("busy");
    const row = make("li", {}, opening);
    if (isShown) {
      row.append(make("div", { className: "acts" }, button("Rename", () => rename(row, id)), button("Export", () => exportChats(id)),
        button("Delete", () => remove(id))));
    }
    return row;
  });
  if (!rows.length) rows.push(make("li", { className: "none" }, matching ? "Nothing found." : "No conversations yet."));
  if (sorted.length > shown) rows.push(make("li", {}, button(`Show all ${count(sorted.length)}`, () => { shown = Infinity; showList(); })));
  const focused = $("list").contains(document.activeElement);
  $("list").replaceChildren(...rows);
  if (focused) $("list").querySelector("[aria-current]")?.focus();
}

function rename(row, id) {
  const input = make("input", { value: heads.get(id).title, maxLength: 200, ariaLabel: "Title" });
  let isDone = false;
  const end = async keeps => {
    if (isDone) return;
    isDone = true;
    input.remove();
    const which = id === chat.id ? chat : await load(id);
    if (keeps && which && input.value.trim()) {
      which.title = input.value.trim();
      await save(which);
    }
    showList();
  };
  input.onblur = () => end(true);
  input.onkeydown = event => {
    if (event.key === "Enter" || event.key === "Escape") { event.preventDefault(); event.stopPropagation(); end(event.key === "Enter"); }
  };
  row.replaceChildren(input);
  input.select();
}

async function choose(id) {
  if (id !== chat.id) {
    const found = runs.get(id)?.chat ?? await load(id);
    if (!found) { notify("This conversation cannot be read."); return; }
    show(found);
  }
  if (isNarrow()) showChats(false);
}

/** Whether the list lies over the chat. */
const isNarrow = () => innerWidth < 1280;

function showChats(open) {
  $("chats").hidden = !open;
  $("chatsButton").ariaExpanded = open;
  $("veil").hidden = !open || !isNarrow();
  if (open) showList();
}

$("chatsButton").onclick = () => {
  const open = $("chats").hidden;
  showChats(open);
  if (!isNarrow()) keepIn("localStorage", "chats open", open);
  if (open && matchMedia("(pointer: fine)").matches) $("search").focus(); // elsewhere a keyboard would cover the list
};
$("veil").onclick = () => showChats(false);
let soonSearch;
$("search").oninput = () => { clearTimeout(soonSearch); soonSearch = setTimeout(search, 150); };
$("exportAll").onclick = () => exportChats();
$("importing").onclick = () => $("importFile").click();
$("importFile").onchange = async ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) await importChats(file);
};
