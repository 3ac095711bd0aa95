// ---- Requests ----

const [log, field, fold, side] = ["log", "field", "fold", "side"].map($);
const setting = name => document.querySelector(`#settings [name=${name}]`);

function headers() {
  const key = setting("key").value.trim();
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

/** What the server said against a request: { message, code }. */
async function refusal(response) {
  const text = (await response.text()).slice(0, 2000);
  let message = text, code = "";
  try {
    const { error } = JSON.parse(text);
    message = error?.message ?? text;
    code = error?.code ?? "";
  } catch { /* not JSON: as it is */ }
  const after = response.headers.get("retry-after");
  return { message: `${message || response.statusText} (${response.status}${after ? `; try again in ${after} s` : ""})`, code };
}

/** Server-sent events of a body, one after the other: { name, data }, or { comment }. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (let line of lines) {
        if (line.endsWith("\r")) line = line.slice(0, -1);
        if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
        else if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (!line && data.length) { yield { name, data: data.join("\n") }; name = ""; data = []; }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Whether a turn has an answer that the next questions build on. */
const isAnswered = ({ answer }) => Boolean(answer.content.trim() || answer.calls.length);

/** A question as it is sent: its text, then its files, each between fences longer than those in it. */
function questionText({ question, files }) {
  const parts = files.map(({ name, text }) => {
    const longest = Math.max(2, ...(text.match(/~{3,}/g) ?? []).map(run => run.length));
    const fence = "~".repeat(longest + 1);
    return `File ${name}:\n${fence}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence}`;
  });
  return [question, ...parts].filter(Boolean).join("\n\n");
}

function messagesOf({ first, turns }, last) {
  const messages = [], system = setting("system").value.trim();
  if (system) messages.push({ role: "system", content: system });
  for (const turn of turns.slice(first, turns.indexOf(last) + 1)) {
    if (turn !== last && !isAnswered(turn)) continue;
    messages.push({ role: "user", content: questionText(turn) });
    if (turn === last) break;
    const calls = turn.answer.calls.map(({ id, name, arguments: text }) => ({ id, type: "function", function: { name, arguments: text } }));
    messages.push({ role: "assistant", content: turn.answer.content, ...(calls.length && { tool_calls: calls }) });
  }
  return messages;
}

const NUMBERS = ["temperature", "top_p", "min_p", "top_k", "seed", "frequency_penalty", "presence_penalty", "repeat_penalty", "max_tokens"];

function request(which, turn) {
  const thinks = $("thinking").checked, effort = setting("effort").value;
  const body = { model: state?.model ?? "infall", messages: messagesOf(which, turn), stream: true, stream_options: { include_usage: true },
    thinking: { type: thinks ? "enabled" : "disabled" } };
  for (const name of NUMBERS) {
    const { value, valueAsNumber } = setting(name);
    if (value) body[name] = valueAsNumber;
  }
  if (thinks && effort) body.reasoning_effort = effort;
  const stops = setting("stop").value.split("\n").filter(Boolean).map(line => line.replaceAll("\\n", "\n"));
  if (stops.length) body.stop = stops;
  if (setting("json").checked) body.response_format = { type: "json_object" };
  return body;
}

// ---- Answers ----

/** Answers that are being given, by the id of their conversation: { chat, turn, control }. */
const runs = new Map();
/** What shows the turns of the conversation that is shown. */
let views = new WeakMap();

/** A reason for no answer that the server gave. */
class Refusal extends Error {
  constructor({ message, code }) { super(message); this.code = code; }
}

/** Asks for the answer to a turn, and shows it as it comes. */
async function ask(which, turn) {
  const answer = turn.answer = newAnswer(), control = new AbortController();
  const body = JSON.stringify(request(which, turn)), run = { chat: which, turn, control };
  runs.set(which.id, run);
  which.updated = Date.now();
  which.title ||= titleOf(which);
  const show = () => views.get(turn)?.();
  follow = true;
  show();
  busy();
  showList();
  save(which);
  say("Waiting for the answer");

  const now_s = () => performance.now() / 1000, asked = now_s();
  let first, last, thinking, waiting, saving, begun = state?.phase === "idle" ? state : null, usage, finish;
  // Tokens come faster than a screen shows them, and what is long takes longer to draw: a fifth of the time goes to it.
  let pause_ms = 33;
  const soon = () => waiting ??= setTimeout(() => {
    const start = performance.now();
    waiting = undefined;
    show();
    pause_ms = Math.max(33, 4 * (performance.now() - start));
  }, pause_ms);
  const think = () => { if (thinking && !answer.content) answer.thought_s = now_s() - thinking; };
  const clock = setInterval(() => {
    think();
    soon();
    saving ??= setTimeout(() => { saving = undefined; save(which); }, 2000);
  }, 500);
  try {
    const response = await fetch("/v1/chat/completions", { method: "POST", headers: headers(), body, signal: control.signal })
      .catch(() => { throw new Error("The server does not answer."); });
    if (!response.ok) {
      if (response.status === 401) showSettings("key");
      throw new Refusal(await refusal(response));
    }
    for await (const { comment, data } of events(response.body)) {
      if (comment) {
        const read = /^prefill (\d+)\/(\d+) tokens(?:, ([\d.]+) t\/s, ([\d.]+) s left)?/.exec(comment)?.slice(1).map(Number);
        if (read) {
          begun ??= state;
          answer.read = { done: read[0], all: read[1], tps: read[2], left: read[3] };
          if (read[2]) answer.facts.read_tps = read[2];
        } else answer.waits = /in line/.test(comment) ? comment : "";
      } else if (data !== "[DONE]") {
        const part = JSON.parse(data), choice = part.choices?.[0];
        if (part.error) throw new Refusal({ message: String(part.error.message ?? part.error), code: part.error.code });
        usage = part.usage ?? usage;
        finish = choice?.finish_reason ?? finish;
        answer.warnings.push(...(choice?.infall_warnings ?? []), ...(part.infall_warnings ?? []));
        const { content, reasoning_content: reasoning, tool_calls: calls } = choice?.delta ?? {};
        if (content || reasoning || calls) {
          begun ??= state;
          first ??= now_s();
          last = now_s();
        }
        if (reasoning) thinking ??= last;
        if (content) think();
        answer.reasoning += reasoning ?? "";
        answer.content += content ?? "";
        for (const { index = 0, id, function: part } of calls ?? []) {
          const call = answer.calls[index] ??= { id: id ?? "", name: "", arguments: "" };
          call.name += part?.name ?? "";
          call.arguments += part?.arguments ?? "";
        }
      }
      soon();
    }
    if (!finish) throw new Error("The connection ended before the answer did.");
    if (finish === "length") answer.ending = cutBy(answer, usage, body);
    say("The answer is complete");
  } catch (error) {
    if (control.signal.aborted) say(answer.ending = "Stopped.");
    else {
      // A connection that breaks is a TypeError; its words differ from browser to browser.
      if (error instanceof TypeError) console.info(error);
      answer.error = error instanceof TypeError ? "The connection was lost before the answer was complete."
        : isTooLong(error) ? tooLong(error.message) : error.message;
      say(answer.error);
    }
  }
  clearInterval(clock);
  clearTimeout(waiting);
  clearTimeout(saving);
  answer.calls = answer.calls.filter(Boolean);
  answer.warnings = [...new Set(answer.warnings.map(String))];
  Object.assign(answer.facts, { prompt: usage?.prompt_tokens, cached: usage?.prompt_tokens_details?.cached_tokens ?? (usage && 0),
    answer: usage?.completion_tokens, wait_s: first && first - asked, answer_s: first && last - first });
  end();
  // The next figures of the engine tell what its experts did for this answer.
  const after = begun && answer.facts.answer && await nextState();
  if (after && after.hits + after.misses > begun.hits + begun.misses && after.hits >= begun.hits) {
    Object.assign(answer.facts, { hits: after.hits - begun.hits, misses: after.misses - begun.misses });
    end();
  }

  function end() {
    delete answer.read;
    delete answer.waits;
    answer.live = false;
    for (const name in answer.facts) if (answer.facts[name] === undefined) delete answer.facts[name];
    if (runs.get(which.id) === run) runs.delete(which.id);
    show();
    busy();
    showList();
    save(which);
  }
}

/** Why the length of an answer ended it. */
function cutBy({ warnings }, usage, body) {
  const most = JSON.parse(body).max_tokens;
  const isFull = warnings.some(text => /context/i.test(text)) || (state && usage && usage.total_tokens >= state.ctx);
  return isFull ? "The context is full." : most ? `The answer was cut at ${tokens(most)}, as Settings say.` : "The answer reached the most tokens that are allowed.";
}

const isTooLong = ({ code, message }) => code === "context_length_exceeded"
  || /prompt is too long|maximum context length|expected at most \d+, the context/.test(message);

/** The refusal of a prompt that does not fit, with its numbers once. */
function tooLong(message) {
  const number = text => Number(text?.replaceAll(",", "")) || 0;
  const said = message.replace(/\(\d+\)$/, ""), all = (said.match(/\d[\d,]*/g) ?? []).map(number);
  const most = number(/(?:length is|at most|>) *(\d[\d,]*)/.exec(said)?.[1]) || (state?.ctx ?? 0), found = Math.max(...all, 0);
  return `Too long: the conversation with this question has ${found > most ? tokens(found) : "more tokens"}, the context takes ${count(most)}.`;
}

const isOverflow = ({ error, ending }) => error.startsWith("Too long:") || ending === "The context is full.";

/** Of an answer that did not fit: about how many tokens the turns and the question have, and how many fit. */
function sizes(turn) {
  const last = chat.turns.indexOf(turn), [found, most] = (turn.answer.error.match(/\d[\d,]*/g) ?? []).map(text => Number(text.replaceAll(",", "")));
  const lengths = chat.turns.slice(chat.first, last + 1).map(each => each === turn || isAnswered(each) ? questionText(each).length + each.answer.content.length : 0);
  const all = lengths.reduce((a, b) => a + b, 0) || 1;
  return most ? { turns: lengths.map(length => found * length / all), fits: most } : { turns: lengths, fits: all };
}

/** No longer sends the oldest turns, so that about a third of the context is free; asks again. */
function leaveOut(turn) {
  const { turns, fits } = sizes(turn), last = chat.turns.indexOf(turn);
  let size = turns.reduce((a, b) => a + b, 0);
  for (let i = 0; chat.first < last && size > .67 * fits; i++, chat.first++) size -= turns[i];
  repeat(turn);
}

// ---- Showing a conversation ----

let follow = true;
const toEnd = () => { if (follow) log.scrollTop = log.scrollHeight; };
log.onscroll = () => $("end").hidden = follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
$("end").onclick = () => { follow = true; toEnd(); field.focus(); };
new ResizeObserver(toEnd).observe(log);

/** A file, folded. */
function fileElement({ name, text }, ...more) {
  const body = make("pre", { tabIndex: 0 }), folded = make("details", { className: "file" },
    make("summary", {}, name, make("small", {}, `${many(text.split("\n").length, "line")}, ${binary(text.length)}`)), body, ...more);
  folded.ontoggle = () => { if (folded.open) put(body, text); };
  return folded;
}

function questionElement(turn) {
  const copying = button("Copy", () => copy(questionText(turn), copying), { ariaLabel: "Copy your message" });
  const said = make("div", { className: "said" }, turn.question);
  said.hidden = !turn.question;
  const element = make("article", { className: "mine", ariaLabel: "You" }, said, ...turn.files.map(file => fileElement(file)));
  const unsent = make("span", { className: "unsent" });
  return [element, make("div", { className: "acts own" }, unsent, copying, button("Edit", () => edit(turn, element), { className: "change" }),
    button("Delete", () => removeTurn(turn), { className: "change", ariaLabel: "Delete this turn" })), unsent];
}

/** Shows a turn, and keeps the function that shows how its answer has changed. */
function showTurn(turn) {
  const [question, acts, unsent] = questionElement(turn);
  const bar = make("progress", { ariaLabel: "Prompt read" }), status = make("span");
  const reading = make("div", { className: "reading" }, bar, status);
  const title = make("summary"), thought = make("div"), thinking = make("details", { className: "thoughts" }, title, thought);
  const text = make("div", { className: "text" }), calls = make("div"), wrong = make("p", { className: "wrong" }), help = make("div", { className: "acts help" });
  const facts = make("span"), warnings = make("ul", { className: "warnings" });
  const copying = button("Copy", () => copy(turn.answer.content, copying), { ariaLabel: "Copy the answer" });
  const end = make("div", { className: "note acts" }, facts, copying, button("Retry", () => repeat(turn), { className: "change" }));
  const element = make("section", { className: "turn" }, question, acts,
    make("article", { ariaLabel: "Answer" }, reading, thinking, text, calls, wrong, help, warnings, end));
  log.append(element);
  const write = writer(text);
  const show = () => {
    const { answer } = turn, { live, read, waits, content, reasoning, error, ending } = answer, isEmpty = !content.trim() && !answer.calls.length;
    reading.hidden = !live || Boolean(content || reasoning);
    bar.hidden = !read;
    if (read) Object.assign(bar, { max: read.all, value: read.done });
    const speed = read?.tps ? `, ${figure(read.tps)} t/s, ${span(read.left)} left` : "";
    put(status, read ? `Reading the prompt: ${count(read.done)} of ${tokens(read.all)}${speed}` : waits ? `${waits[0].toUpperCase()}${waits.slice(1)}` : "Waiting for the engine");
    thinking.hidden = !reasoning;
    put(title, live && !content ? `Thinking… ${span(answer.thought_s)}` : `Thought for ${span(Math.ceil(answer.thought_s))}`);
    if (reasoning.startsWith(thought.textContent)) thought.append(reasoning.slice(thought.textContent.length));
    else put(thought, reasoning);
    write(content, !live);
    if (calls.children.length !== answer.calls.length || !live) calls.replaceChildren(...answer.calls.filter(Boolean).map(callElement));
    // What ended it, in one place: an error, silence behind the thoughts, or a bound.
    const silent = !live && !error && isEmpty && ending !== "Stopped.";
    const why = [silent && (reasoning ? "No answer came after the thoughts." : "The answer is empty."),
      silent && !ending && "The model ended its turn there.", ending].filter(Boolean).join(" ");
    wrong.hidden = live || !(error || silent || isOverflow(answer));
    put(wrong, error || why);
    const failed = !live && isEmpty;
    element.classList.toggle("failed", failed);
    put(unsent, !failed ? "" : turn === chat.turns.at(-1) ? "Not answered" : "Not answered, so it is not sent again");
    showHelp(help, turn);
    end.hidden = live;
    put(facts, live ? "" : [wrong.hidden && ending.replace(/\.$/, ""), ...figures(answer)].filter(Boolean).join(" · "));
    copying.hidden = !content;
    warnings.hidden = live;
    warnings.replaceChildren(...answer.warnings.map(text => make("li", {}, text)));
    toEnd();
  };
  views.set(turn, show);
  show();
}

function callElement({ name, arguments: text }) {
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not whole, or not JSON: as it is */ }
  return make("details", { className: "file", open: true }, make("summary", {}, "Tool call: ", make("code", {}, name || "?")), make("pre", { tabIndex: 0 }, shown));
}

/** What can be done about an answer that did not fit. */
function showHelp(help, turn) {
  const { answer } = turn;
  help.hidden = answer.live || !isOverflow(answer);
  if (help.hidden || help.firstChild) return;
  const { turns, fits } = sizes(turn), add = (text, act) => help.append(button(text, act, { className: "edged change" }));
  if (answer.error && turns.at(-1) > fits) {
    help.append("The question alone is too long: shorten it, or send it in parts.");
    return;
  }
  if (turns.length > 1) add("Leave out the oldest turns and ask again", () => leaveOut(turn));
  if (answer.error) add("New chat with this question", () => moveOut(turn));
  else add("New chat", fresh);
}

/** The line under an answer. */
function figures({ facts }) {
  const { prompt, cached, answer: n, wait_s, answer_s, read_tps, hits, misses } = facts;
  return [n && tokens(n), n > 1 && answer_s > 0 && `${figure((n - 1) / answer_s)} t/s`, wait_s >= 0 && `first after ${fixed(wait_s, 1)} s`,
    prompt && `prompt ${count(prompt)}, ${count(cached ?? 0)} reused`, read_tps && `read at ${figure(read_tps)} t/s`,
    hits + misses > 0 && `${fixed(100 * hits / (hits + misses), 1)}% of experts in memory`];
}

/** Shows a conversation from its start. */
function show(which) {
  chat = which;
  keepIn("sessionStorage", "current", which.id);
  views = new WeakMap();
  log.querySelectorAll(".turn, .left").forEach(element => element.remove());
  which.turns.forEach((turn, i) => {
    if (i && i === which.first) log.append(make("p", { className: "left" }, "The turns above are no longer sent.",
      button("Send them again", () => { which.first = 0; save(which); show(which); })));
    showTurn(turn);
  });
  $("empty").hidden = which.turns.length > 0;
  document.title = which.title ? `${which.title} – infall` : "infall";
  follow = true;
  toEnd();
  busy();
  showList();
}

// ---- Changing a conversation ----

let noticing;

/** Tells something above the field, with one thing that can be done about it. */
function notify(text, label, act) {
  const hide = () => { $("notice").hidden = true; };
  $("notice").replaceChildren(make("span", {}, text));
  if (label) $("notice").append(button(label, () => { hide(); act(); }));
  $("notice").append(button("×", hide, { ariaLabel: "Close" }));
  $("notice").hidden = false;
  clearTimeout(noticing);
  noticing = setTimeout(hide, 15_000);
}

/** Changes the turns of the shown conversation; the change can be undone. */
function change(what, act) {
  const which = chat, before = { title: which.title, turns: [...which.turns], first: which.first };
  // An answer is made anew, so that the old one can come back.
  const answers = before.turns.map(({ answer }) => answer);
  act();
  if (what) notify(what, "Undo", () => {
    runs.get(which.id)?.control.abort();
    runs.delete(which.id);
    before.turns.forEach((turn, i) => { turn.answer = answers[i]; });
    Object.assign(which, before, { isRemoved: false });
    save(which);
    if (chat.id === which.id || !chat.turns.length) show(which);
    showList();
  });
}

function removeTurn(turn) {
  change("The turn was deleted.", () => {
    const i = chat.turns.indexOf(turn);
    chat.turns.splice(i, 1);
    if (i < chat.first) chat.first--;
    if (chat.turns.length) save(chat);
    else {
      chat.title = "";
      heads.delete(chat.id);
      store.remove(chat.id);
    }
    show(chat);
  });
}

/** Asks a question anew; what follows it goes. */
function repeat(turn, question = turn.question) {
  const i = chat.turns.indexOf(turn), behind = chat.turns.length - i - 1, isSame = question === turn.question;
  change(behind ? `${many(behind, "turn")} behind it ${behind > 1 ? "were" : "was"} removed.` : isSame ? "" : "The question was changed.", () => {
    const asked = isSame ? turn : { ...turn, question }, isNamed = chat.title !== titleOf(chat);
    chat.turns.splice(i, Infinity, asked);
    if (!isNamed) chat.title = titleOf(chat);
    chat.first = Math.min(chat.first, i);
    asked.answer = newAnswer();
    show(chat);
    ask(chat, asked);
  });
  field.focus();
}

/** Moves a question that does not fit into a conversation of its own. */
function moveOut(turn) {
  const { question, files } = turn;
  fresh();
  begin({ question, files });
}

/** Puts an editor in the place of a question. */
function edit(turn, element) {
  const behind = chat.turns.length - 1 - chat.turns.indexOf(turn);
  const text = make("textarea", { value: turn.question, ariaLabel: "Your message" });
  const acts = element.nextSibling;
  const close = () => { form.replaceWith(element); acts.hidden = false; acts.querySelector(".change")?.focus(); };
  const form = make("form", { className: "editor" }, text, make("div", { className: "acts" },
    make("span", {}, behind ? `Sending removes the ${many(behind, "turn")} behind it.` : "Sending replaces the answer."),
    button("Cancel", close), make("button", { className: "main" }, "Send")));
  form.onsubmit = event => {
    event.preventDefault();
    if (!text.value.trim() && !turn.files.length) return;
    close();
    repeat(turn, text.value);
  };
  text.onkeydown = event => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  };
  element.replaceWith(form);
  acts.hidden = true;
  text.rows = Math.min(20, turn.question.split("\n").length + 1);
  text.focus();
}

/** Adds a turn to the shown conversation and asks. */
function begin({ question, files }) {
  const turn = { question, files, answer: newAnswer() };
  const unanswered = chat.turns.at(-1);
  chat.turns.push(turn);
  if (unanswered) views.get(unanswered)?.();
  if (chat.first && chat.first === chat.turns.length - 1) show(chat); // with the line above it
  else showTurn(turn);
  $("empty").hidden = true;
  ask(chat, turn);
  document.title = `${chat.title} – infall`;
}

function fresh() {
  show(newChat());
  say("New chat");
  if (isNarrow()) showChats(false);
  field.focus();
}

// ---- The field ----

let attached = [];
const FILE_MOST = 1e6, FILES_MOST = 20, PASTE_MOST = 4000;

function showAttached() {
  $("attached").replaceChildren(...attached.map(file => make("li", {}, fileElement(file,
    ...(file.isPasted ? [button("Put it in the message", () => { drop(file); field.value += file.text; grow(); })] : [])),
    button("×", () => drop(file), { ariaLabel: `Remove ${file.name}` }))));
}

function drop(file) {
  attached = attached.filter(other => other !== file);
  showAttached();
  field.focus();
}

function attach(name, text, isPasted = false) {
  if (attached.length >= FILES_MOST) return notify(`At most ${FILES_MOST} files can be attached.`);
  attached.push({ name: name.replace(/[\x00-\x1f]/g, " ").slice(0, 200), text, isPasted });
  showAttached();
}

/** Attaches those files that are text. */
async function attachFiles(files) {
  for (const file of files) {
    if (file.size > FILE_MOST) { notify(`${file.name} has ${binary(file.size)}; at most ${binary(FILE_MOST)} can be attached.`); continue; }
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new Error("it holds zero bytes");
      attach(file.name, text);
    } catch { notify(`${file.name} is not a text file; this model reads text only.`); }
  }
  field.focus();
}

function grow() { field.rows = Math.min(12, field.value.split("\n").length); }

function send() {
  const question = field.value;
  if (runs.has(chat.id) || !(question.trim() || attached.length)) return;
  const files = attached.map(({ name, text }) => ({ name, text }));
  attached = [];
  showAttached();
  field.value = "";
  grow();
  $("notice").hidden = true;
  begin({ question, files });
}

function busy() {
  const run = runs.get(chat.id);
  put($("go"), run ? "Stop" : "Send");
  $("go").className = run ? "stop" : "";
  log.classList.toggle("busy", Boolean(run));
}

$("form").onsubmit = event => {
  event.preventDefault();
  const run = runs.get(chat.id);
  run ? run.control.abort() : send();
};
$("fresh").onclick = fresh;
field.oninput = grow;
field.onkeydown = event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
};
field.onpaste = event => {
  const files = [...event.clipboardData.files], text = event.clipboardData.getData("text/plain");
  if (files.length && !text) { event.preventDefault(); attachFiles(files); }
  else if (text.length > PASTE_MOST) {
    event.preventDefault();
    if (text.length > FILE_MOST) notify(`The text has ${count(text.length)} characters; at most ${count(FILE_MOST)} can be attached.`);
    else attach("pasted text", text.replaceAll("\r\n", "\n"), true);
  }
};
$("attach").onclick = () => $("files").click();
$("files").onchange = ({ target }) => { attachFiles([...target.files]); target.value = ""; };
const isDrag = event => event.dataTransfer?.types.includes("Files");
document.ondragover = event => { if (isDrag(event)) { event.preventDefault(); $("box").classList.add("dropping"); } };
document.ondragleave = event => { if (!event.relatedTarget) $("box").classList.remove("dropping"); };
document.ondrop = event => {
  if (!isDrag(event)) return;
  event.preventDefault();
  $("box").classList.remove("dropping");
  attachFiles([...event.dataTransfer.files]);
};
document.onkeydown = event => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) {
    if (!$("veil").hidden) { showChats(false); $("chatsButton").focus(); }
    else runs.get(chat.id)?.control.abort();
  }
  const isCommand = (event.ctrlKey || event.metaKey) && !document.querySelector("dialog[open]");
  if (isCommand && event.key === "k") {
    event.preventDefault();
    showChats(true);
    $("search").focus();
  }
  if (isCommand && event.shiftKey && event.key.toLowerCase() === "o") { event.preventDefault(); fresh(); }
  if (event.key === "/" && !event.target.closest?.("input, textarea, select") && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    field.focus();
  }
};

// ---- Settings ----

const inputs = [...document.querySelectorAll("#settings [name]"), $("thinking")];

function showSettings(name) {
  if (!$("settings").open) $("settings").showModal();
  if (name) setting(name).focus();
}

/** Settings are kept in the browser; the key only where that is wanted. */
function keepSettings() {
  const values = {};
  for (const input of inputs) if (input.name !== "key") values[input.name || input.id] = input.type === "checkbox" ? input.checked : input.value;
  keepIn("localStorage", "settings", values);
  const key = setting("key").value, isLasting = setting("keepKey").checked;
  keepIn("sessionStorage", "key", key);
  if (isLasting) keepIn("localStorage", "key", key);
  else try { localStorage.removeItem("key"); } catch { /* no storage, no key */ }
  $("more").classList.toggle("changed", inputs.some(input => !["key", "keepKey"].includes(input.name) && input.id !== "thinking"
    && (input.type === "checkbox" ? input.checked : input.value)));
}

function readSettings() {
  const values = { ...kept("localStorage", "settings"), key: kept("sessionStorage", "key") ?? kept("localStorage", "key") ?? "" };
  for (const input of inputs) {
    const value = values[input.name || input.id];
    if (input.type === "checkbox") { if (typeof value === "boolean") input.checked = value; }
    else if (typeof value === "string") input.value = value;
  }
  keepSettings();
}

for (const input of inputs) input.onchange = keepSettings;
setting("key").addEventListener("change", connect);
$("more").onclick = () => showSettings();
$("settings").onclick = event => { if (event.target === $("settings")) $("settings").close(); };
$("defaults").onclick = () => {
  for (const input of inputs) {
    if (["system", "key", "keepKey", "thinking"].includes(input.name || input.id)) continue;
    if (input.type === "checkbox") input.checked = false;
    else input.value = "";
  }
  keepSettings();
};
