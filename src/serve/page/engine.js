// ---- Engine panel: the server's events ----

/** The last `state` event; null before the first and while the server is gone. */
let state = null, stream = null, pause_ms = 500, awaited = [];

/** The next figures; the last known when none come soon. */
const nextState = () => new Promise(resolve => { awaited.push(resolve); setTimeout(() => resolve(state), 1500); });

/** Listens to /events, while the tab is seen; again and again. A fetch, since an EventSource cannot send a key. */
async function connect() {
  stream?.abort();
  if (document.hidden) return;
  const control = stream = new AbortController();
  let why = "The server is gone.", silence;
  // It says something every ten seconds at least; a connection that is silent for longer is dead.
  const heard = () => { clearTimeout(silence); silence = setTimeout(() => control.abort(), 30_000); };
  try {
    heard();
    const response = await fetch("/events", { headers: headers(), signal: control.signal });
    if (!response.ok) why = (await refusal(response)).message;
    else for await (const event of events(response.body)) {
      heard();
      pause_ms = 500;
      try {
        if (event.name === "state") showState(JSON.parse(event.data));
        if (event.name === "experts") showExperts(JSON.parse(event.data));
      } catch (error) { console.error(error); }
    }
  } catch { /* the same as an end */ }
  clearTimeout(silence);
  if (stream !== control || document.hidden) return; // another call took over, or will
  showGone(why);
  pause_ms = Math.min(2 * pause_ms, 10_000);
  setTimeout(() => { if (stream === control) connect(); }, pause_ms);
}

document.onvisibilitychange = connect;

function showGone(why) {
  state = null;
  side.classList.add("stale");
  $("gone").hidden = false;
  put($("gone"), `${why} Trying again; what you see is the last that was known.`);
  say($("gone").textContent);
  put(fold, "Not connected");
  fold.classList.remove("busy");
}

function showState(now) {
  state = now;
  awaited.splice(0).forEach(tell => tell(now));
  side.classList.remove("stale");
  $("gone").hidden = true;
  const { phase, done, all } = now;
  put($("model"), `${now.model} · ${now.strategy} · ${now.backend}`);
  put($("now"), { prefill: `Reading a prompt: ${count(done)} of ${tokens(all)}`, idle: "Idle",
    decode: `Answering: ${count(done)} of at most ${tokens(all)}` }[phase]);
  Object.assign($("part"), { max: all || 1, value: phase === "idle" ? 0 : done });
  const tps = now[`${phase}_tps`]; // none when idle
  put(fold, ({ prefill: "Reading", decode: "Answering" }[phase] ?? "Engine idle") + (tps ? ` ${figure(tps)} t/s` : ""));
  fold.classList.toggle("busy", phase !== "idle");

  const speed = tps => tps === null ? "–" : figure(tps), chosen = now.hits + now.misses;
  prefill.tell(speed(now.prefill_tps), `${count(now.prompt_tokens)} tokens, ${count(now.cached_tokens)} reused`);
  decode.tell(speed(now.decode_tps), tokens(now.answer_tokens));
  disk.tell(figure(now.disk_mbs), `${figure(now.read_bytes / 1e9)} GB, ${fixed(now.stall_s, 1)} s waited`);
  rate.tell(chosen ? fixed(100 * now.hits / chosen, 1) : "–", `${count(now.misses)} of ${count(chosen)} missed`);
  showMemory(now);

  put($("traffic"), [many(now.requests, "request"), `${count(now.queue)} waiting`,
    many(now.errors, "error"), `up ${span(now.uptime_s)}`].join(" · "));
  rows($("sessions"), now.sessions, () => make("li", {}, make("progress", { ariaLabel: "Context used" }), make("span")),
    (row, session) => {
      Object.assign(row.firstChild, { max: session.ctx, value: session.tokens });
      put(row.lastChild, `${count(session.tokens)} of ${tokens(session.ctx)}`);
    });
}

/** As many children as there are things, each of them told its thing. */
function rows(parent, things, create, tell) {
  while (parent.children.length > things.length) parent.lastChild.remove();
  while (parent.children.length < things.length) parent.append(create());
  things.forEach((thing, i) => tell(parent.children[i], thing, i));
}

/** Uses of the ledger in one bar; on the same scale a mark for what is taken, and the file's pages below. */
function showMemory({ ledger, ledger_bytes, rss_bytes, model_cache_bytes }) {
  const scale = Math.max(ledger_bytes, rss_bytes, model_cache_bytes, 1), part = bytes => `${100 * bytes / scale}%`;
  // Experts have the accent, all else a tone of ink that differs from its neighbours'.
  const lines = ledger.map(([name, bytes], i) => ({ name, bytes, tone: name === "experts" ? "var(--accent)"
    : `color-mix(in oklab, var(--ink) ${72 - 48 * (i * .62 % 1)}%, var(--side))` }));
  rows($("uses"), lines, () => make("div"), (segment, { name, bytes, tone }) => {
    segment.title = `${name}: ${binary(bytes)}`;
    Object.assign(segment.style, { flex: `0 1 ${part(bytes)}`, background: tone });
  });
  $("rss").hidden = rss_bytes === null;
  $("rss").style.left = part(rss_bytes);
  $("pages").style.width = part(model_cache_bytes);
  lines.push({ name: "taken now", bytes: rss_bytes, sign: "mark" },
    { name: "model in the page cache", bytes: model_cache_bytes, sign: "pages" });
  const known = lines.filter(line => line.bytes !== null);
  rows($("legend"), known, () => make("li", {}, make("i"), make("span"), make("b")), ({ children }, { name, bytes, tone, sign }) => {
    children[0].className = sign ?? "";
    children[0].style.background = tone ?? "";
    put(children[1], name);
    put(children[2], binary(bytes));
  });
  put($("memory"), (rss_bytes === null ? "" : `${binary(rss_bytes)} of `) + `${binary(ledger_bytes)} planned`);
}

/** A figure with the line of its last minute, sampled four times a second. */
function tile(title, unit, value, most) {
  $("tiles").append($("tile").content.cloneNode(true));
  const [name, now, sums, svg] = $("tiles").lastElementChild.children, values = new Array(240).fill(null);
  put(name, title);
  put(now.lastChild, unit);
  return {
    tell(figure, sum) { put(now.firstChild, figure); put(sums, sum); },
    sample() {
      values.shift();
      values.push(state && value(state));
      const top = most ?? Math.max(...values, 1e-9);
      svg.lastChild.setAttribute("d", values.map((v, i) => v === null ? ""
        : `${i && values[i - 1] !== null ? "L" : "M"}${i} ${(30 - 30 * v / top).toFixed(1)}`).join(""));
    },
  };
}

/** The share of hits since the last sample; the one before where nothing was looked for. */
let before = { hits: 0, misses: 0, share: null };
function recentHits({ hits, misses }) {
  const chosen = hits + misses - before.hits - before.misses;
  before = { hits, misses, share: chosen > 0 ? 100 * (hits - before.hits) / chosen : before.share };
  return before.share;
}

const prefill = tile("Prefill", "t/s", now => now.phase === "prefill" ? now.prefill_tps : 0);
const decode = tile("Decode", "t/s", now => now.phase === "decode" ? now.decode_tps : 0);
const disk = tile("Read from disk", "MB/s", now => now.disk_mbs);
const rate = tile("Experts found in memory", "%", recentHits, 100);
setInterval(() => { for (const each of [prefill, decode, disk, rate]) each.sample(); }, 250);

// ---- Heat map: a row for each layer, a column for each expert ----

const heat = $("heat"), ink = heat.getContext("2d");
/** States, a string for each layer; the colour of each state; the size of the map, in pixels of the device. */
let map = { layers: 0, experts: 0, rows: [] }, colours = {}, grid = null, spot = null;

/** A canvas takes no variables: the colours of the states, as the style sheet has them in the theme of now. */
function mixColours() {
  const colour = expression => {
    $("probe").style.color = expression;
    return getComputedStyle($("probe")).color;
  };
  const mix = (name, level) => colour(`color-mix(in oklab, var(--${name}-least), var(--${name}-most) ${100 * level / 9}%)`);
  colours = { ".": colour("var(--never)") };
  [..."abcdefghij"].forEach((letter, level) => {
    colours[level] = mix("away", level);
    colours[letter] = mix("here", level);
  });
}

/** Cells as large as the place allows, in whole pixels of the device; between large ones a gap of one pixel. */
function layOut() {
  const { layers, experts } = map, dots = devicePixelRatio;
  const free = Math.min($("map").clientWidth * dots / experts, 40 * dots);
  if (!layers || !free) return;
  // Where pixels are few or fine, columns may differ by one, so that the width is used.
  const w = free < 2 || dots >= 2 ? free : Math.floor(free);
  const h = Math.max(Math.floor(Math.min(216 * dots / layers, 22 * dots, Math.max(w, 5 * dots))), 2);
  grid = { w, h, dots, gapX: w >= 4 * dots ? 1 : 0, gapY: h >= 3 * dots ? 1 : 0 };
  heat.width = w * experts;
  heat.height = h * layers;
  heat.style.width = `${heat.width / dots}px`;
  heat.style.height = `${heat.height / dots}px`;
  for (let layer = 0; layer < layers; layer++) drawRow(layer);
}

function drawRow(layer) {
  if (!grid) return; // folded since the start
  const { w, h, gapX, gapY } = grid, states = map.rows[layer] ?? "";
  for (let expert = 0; expert < map.experts; expert++) {
    const left = Math.floor(expert * w), right = Math.floor((expert + 1) * w);
    ink.fillStyle = colours[states[expert]] ?? colours["."];
    ink.fillRect(left, layer * h, right - left - gapX, h - gapY);
  }
}

function showExperts({ layers, experts, rows }) {
  if (layers !== map.layers || experts !== map.experts) {
    map = { layers, experts, rows: [] };
    hideTip();
    layOut();
  }
  for (const layer in rows) {
    map.rows[layer] = rows[layer];
    drawRow(Number(layer));
  }
  const here = map.rows.join("").match(/[a-j]/g)?.length ?? 0;
  put($("resident"), `${count(here)} of ${count(layers * experts)} in memory`);
  if (spot) showTip(spot.layer, spot.expert);
}

function describe(layer, expert) {
  const use = ".0123456789abcdefghij".indexOf(map.rows[layer]?.[expert]) - 1;
  return `Layer ${layer}, expert ${expert}: ` + (use < 0 ? "never used"
    : `${use > 9 ? "in memory" : "not in memory"}, use ${use % 10} of 9`);
}

function showTip(layer, expert) {
  const { w, h, dots } = grid, tip = $("tip"), mark = $("spot");
  spot = { layer, expert };
  put(tip, describe(layer, expert));
  tip.hidden = mark.hidden = false;
  const left = Math.floor(expert * w) / dots, top = layer * h / dots, px = n => `${n}px`;
  Object.assign(mark.style, { left: px(left), top: px(top), width: px(w / dots), height: px(h / dots) });
  tip.style.left = px(within(left - tip.offsetWidth / 2, $("map").clientWidth - tip.offsetWidth));
  tip.style.top = px(top - 32);
}

function hideTip() {
  spot = null;
  $("tip").hidden = $("spot").hidden = true;
}

const within = (n, end) => Math.max(0, Math.min(Math.floor(n), end - 1));
heat.onpointermove = heat.onpointerdown = ({ offsetX, offsetY }) => {
  if (grid) showTip(within(offsetY * grid.dots / grid.h, map.layers), within(offsetX * grid.dots / grid.w, map.experts));
};
heat.onpointerleave = heat.onblur = hideTip;
heat.onkeydown = event => {
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!step || !grid) return;
  event.preventDefault();
  if (spot) showTip(within(spot.layer + step[0], map.layers), within(spot.expert + step[1], map.experts));
  else showTip(0, 0);
  say($("tip").textContent);
};
new ResizeObserver(layOut).observe($("map"));

