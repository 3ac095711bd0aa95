// ---- Markdown ----
//
// CommonMark without HTML and without loaded images, and with GitHub's tables, strikethrough, task lists and bare links.
// Formulas are shown as their source. As the specification describes it: lines become a tree of blocks, then the text of
// each paragraph, heading and cell becomes DOM nodes. Markup in the text stays text: only nodes are built, no HTML is
// parsed. A line break in a paragraph is shown as one, since models write it as one.

/** Containers and emphasis nest no deeper, so that no text can exhaust the stack of the browser's layout. */
const DEPTH = 40;

/** A line whose front is consumed step by step. Tabs count up to the next stop of four columns. */
class Line {
  constructor(text) {
    this.rest = text;
    this.column = 0;
  }
  /** Columns of white space in front. */
  get indent() {
    let column = this.column;
    for (let i = 0; ; i++) {
      if (this.rest[i] === " ") column++;
      else if (this.rest[i] === "\t") column += 4 - column % 4;
      else return column - this.column;
    }
  }
  get text() { return this.rest.replace(/^[ \t]+/, ""); }
  get isBlank() { return !/[^ \t]/.test(this.rest); }
  /** Consumes columns. Of a tab that is wider, the remaining columns become spaces. */
  skip(columns) {
    while (columns > 0 && this.rest) {
      const width = this.rest[0] === "\t" ? 4 - this.column % 4 : 1, step = Math.min(width, columns);
      this.rest = " ".repeat(width - step) + this.rest.slice(1);
      this.column += step;
      columns -= step;
    }
  }
  /** Consumes the sign of a quote and one space behind it. */
  skipQuote() {
    this.skip(this.indent + 1);
    if (/^[ \t]/.test(this.rest)) this.skip(1);
  }
}

const HEADING = /^(#{1,6})(?=[ \t]|$)/, FENCE = /^(`{3,})([^`]*)$|^(~{3,})(.*)$/, UNDERLINE = /^(?:=+|-+)[ \t]*$/;
const RULE = /^(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/, ITEM = /^(?:[-*+]|(\d{1,9})[.)])(?=[ \t]|$)/;
const COLUMNS = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Cells of a row of a table. */
const cells = row => row.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/).map(cell => cell.trim().replaceAll("\\|", "|"));

/** Whether an open block contains this line; consumes what the block needs of it. */
function continues(block, line) {
  const { indent } = line;
  switch (block.kind) {
    case "quote":
      if (indent > 3 || line.text[0] !== ">") return false;
      line.skipQuote();
      return true;
    case "list":
      return true;
    case "item":
      // An item that begins with a blank line ends at a second one.
      if (line.isBlank ? !block.children.length : indent < block.width) return false;
      line.skip(Math.min(indent, block.width));
      return true;
    case "code":
      if (!block.fence && !line.isBlank && indent < 4) return false;
      line.skip(Math.min(indent, block.fence ? block.indent : 4));
      return true;
    default: // paragraph, table, formula
      return !line.isBlank;
  }
}

/** Whether a line ends the open fenced code. */
function endsFence({ fence }, line) {
  const text = line.text.trimEnd();
  return line.indent < 4 && text.length >= fence.length && text === fence[0].repeat(text.length);
}

/**
 * The blocks of a text as a tree: { kind, children or lines, from: the offset of its first line, first, last: numbers of
 * its lines }. Definitions of links go into the map. A text that is not whole may grow. `code` is a block of code that
 * the text goes on with.
 */
function parseBlocks(text, definitions, isWhole, code) {
  const root = { kind: "root", children: [], depth: 0 };
  if (code) root.children.push(code = { ...code, parent: root, lines: [], open: true });
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  let from = 0, before = 0;
  lines.forEach((source, number) => {
    const line = new Line(source.endsWith("\r") ? source.slice(0, -1) : source);
    takeLine(line, number);
    before = from;
    from += source.length + 1;
  });
  finish(root, definitions);
  return root.children;

  function touch(block, number) {
    for (; block; block = block.parent) block.last = number;
  }

  function takeLine(line, number) {
    // The open blocks that the line belongs to.
    let at = root;
    for (let child; (child = at.children?.at(-1))?.open; at = child) {
      if (child.fence && endsFence(child, line)) {
        child.open = false;
        return touch(child, number);
      }
      const isQuote = child.kind === "quote";
      if (!continues(child, line)) break;
      if (isQuote) touch(child, number);
    }
    let tip = at;
    while (tip.children?.at(-1)?.open) tip = tip.children.at(-1);

    const open = (kind, more) => {
      while (!at.children || (at.kind === "list") !== (kind === "item")) at = at.parent;
      const previous = at.children.at(-1);
      if (previous) previous.open = false;
      at.children.push(tip = { kind, parent: at, depth: at.depth + 1, from, first: number, open: true, ...more });
      touch(at = tip, number);
      return at;
    };
    const shut = (kind, more) => { open(kind, more).open = false; };

    // The blocks that begin in it.
    while (at.kind !== "code" && at.kind !== "math" && !line.isBlank) {
      const { indent, text } = line, inText = at.kind === "text";
      let match;
      if (indent >= 4) {
        if (tip.kind !== "text") {
          line.skip(4);
          open("code", { before: "", lines: [] });
        }
        break;
      }
      if (text[0] === ">" && at.depth < DEPTH) {
        line.skipQuote();
        open("quote", { children: [] });
      } else if (match = HEADING.exec(text)) {
        const title = text.slice(match[0].length).trim().replace(/(^|[ \t])#+$/, "").trim();
        return shut("heading", { level: match[0].length, lines: [title] });
      } else if (match = FENCE.exec(text)) {
        open("code", { fence: match[1] ?? match[3], info: (match[2] ?? match[4]).trim(), indent, before: "", lines: [] });
        return;
      } else if (inText && text.includes("|") && COLUMNS.test(text) && text.length < 2000
        && cells(text).length === cells(at.lines.at(-1)).length) {
        const columns = cells(text).map(cell => (cell[0] === ":" ? 1 : 0) + (cell.at(-1) === ":" ? 2 : 0));
        const rows = [cells(at.lines.pop())];
        if (at.lines.length) Object.assign(open("table", { columns, rows }), { from: before, first: number - 1 });
        else Object.assign(at, { kind: "table", columns, rows });
        return touch(at, number);
      } else if (inText && UNDERLINE.test(text) && (match = takeDefinitions(at.lines.join("\n"), definitions))) {
        Object.assign(at, { kind: "heading", level: text[0] === "=" ? 1 : 2, lines: [match], open: false });
        return touch(at, number);
      } else if (RULE.test(text)) {
        return shut("rule");
      } else if ((match = ITEM.exec(text)) && at.depth < DEPTH && beginsItem(match, inText, text)) {
        const mark = match[0].at(-1), parent = inText || at.kind === "table" ? at.parent : at;
        line.skip(indent + match[0].length);
        const gap = line.indent, one = line.isBlank || gap > 4;
        line.skip(one ? 1 : gap);
        if (parent.kind !== "list" || parent.mark !== mark) open("list", { mark, start: match[1], children: [] });
        open("item", { width: indent + match[0].length + (one ? 1 : gap), children: [] });
      } else if (match = formula(text, inText, number)) {
        open("math", { end: match.end, lines: [text] });
        if (match.whole) at.open = false;
        return;
      } else break;
    }

    const { isBlank } = line;
    if (at.kind === "code" || at.kind === "math") {
      at.lines.push(line.rest);
      if (at.kind === "math" && line.rest.trimEnd().endsWith(at.end)) at.open = false;
      if (!isBlank || at.fence) touch(at, number);
    } else if (!isBlank && tip.kind === "text") { // also a paragraph whose containers the line leaves out
      tip.lines.push(line.text);
      touch(tip, number);
    } else {
      const child = at.children?.at(-1);
      if (child) child.open = false;
      if (isBlank) return;
      if (at.kind === "table") at.rows.push(cells(line.rest));
      else open("text", { lines: [line.text] });
      touch(at, number);
    }
  }

  /** Inside a paragraph only an item with text begins a list, and only number 1 a numbered one. */
  function beginsItem([sign, start], inText, text) {
    return !inText || (Number(start ?? 1) === 1 && text.length > sign.length && /\S/.test(text.slice(sign.length)));
  }

  /** Whether a formula begins with this line, and whether it ends in it. */
  function formula(text, inText, number) {
    const sign = text.slice(0, 2), line = text.trimEnd(), end = { "\\[": "\\]", "$$": "$$" }[sign];
    if (!end) return null;
    if (line.length > 4 && line.endsWith(end)) return { end, whole: true };
    if (line.length === 2) return { end };
    if (inText) return null;
    // It has to end before the next blank line, in not too many lines.
    for (let i = number, line = text.slice(2); i < number + 40; line = lines[++i]) {
      if (line === undefined) return isWhole ? null : { end };
      if (!/\S/.test(line)) return null;
      if (line.trimEnd().endsWith(end)) return { end };
    }
    return null;
  }
}

/** What can only be said at the end of the text: definitions, text of blocks, whether lists are loose. */
function finish(block, definitions) {
  const { kind, children } = block;
  if (children) {
    for (const child of children) finish(child, definitions);
    const isApart = (child, i) => i > 0 && child.first > children[i - 1].last + 1;
    if (kind === "list") block.loose = children.some((item, i) => isApart(item, i) || item.apart);
    if (kind === "item") block.apart = children.some(isApart);
    block.children = children.filter(child => child.kind !== "text" || child.text);
  } else if (kind === "text" || kind === "heading") {
    const text = block.lines.join("\n");
    block.text = (kind === "text" ? takeDefinitions(text, definitions) : text).trim();
  } else if (kind === "code" || kind === "math") {
    if (kind === "code" && !block.fence) while (!/\S/.test(block.lines.at(-1))) block.lines.pop();
    block.text = block.lines.join("\n");
  }
}

const DEFINITION = new RegExp(String.raw`^\[((?:[^\\\[\]]|\\[^]){1,999})\]:[ \t]*\n?[ \t]*(<(?:[^<>\n\\]|\\.)*>|[^\s<]\S*)`
  + String.raw`(?:(?:[ \t]+|[ \t]*\n[ \t]*)("(?:[^"\\]|\\[^])*"|'(?:[^'\\]|\\[^])*'|\((?:[^()\\]|\\[^])*\)))?[ \t]*(?:\n|$)`);

/** Moves the definitions at the start of a paragraph into the map; what is left is its text. */
function takeDefinitions(text, definitions) {
  for (let match; text[0] === "[" && (match = DEFINITION.exec(text)) && match[1].trim(); text = text.slice(match[0].length)) {
    const name = labelOf(match[1]), [, , href, title] = match;
    if (!definitions.has(name)) definitions.set(name, { href: destination(href), title: title && unescaped(title.slice(1, -1)) });
  }
  return text;
}

/** Characters that browsers would take for others, or cut, are encoded. */
const encoded = href => href.replace(/[\\`"^{|}\s]/g, encodeURIComponent);
/** Labels are equal without regard to case and white space. */
const labelOf = text => text.trim().replace(/\s+/g, " ").toLowerCase().toUpperCase();
const destination = text => encoded(unescaped(text[0] === "<" ? text.slice(1, -1) : text));

const ENTITIES = Object.fromEntries(`amp & lt < gt > quot " apos ' nbsp \u00a0 copy © reg ® trade ™ hellip … mdash — ndash – lsquo ‘
  rsquo ’ ldquo “ rdquo ” laquo « raquo » bull • middot · times × divide ÷ plusmn ± deg ° micro µ para ¶ sect § euro € pound £
  cent ¢ yen ¥ frac12 ½ frac14 ¼ frac34 ¾ sup1 ¹ sup2 ² sup3 ³ larr ← uarr ↑ rarr → darr ↓ harr ↔ lArr ⇐ rArr ⇒ hArr ⇔ forall ∀
  part ∂ exist ∃ empty ∅ nabla ∇ isin ∈ notin ∉ prod ∏ sum ∑ minus − radic √ prop ∝ infin ∞ and ∧ or ∨ cap ∩ cup ∪ int ∫ sim ∼
  asymp ≈ ne ≠ equiv ≡ le ≤ ge ≥ sub ⊂ sup ⊃ sube ⊆ supe ⊇ not ¬ alpha α beta β gamma γ delta δ epsilon ε zeta ζ eta η theta θ
  iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ phi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Pi Π
  Sigma Σ Phi Φ Psi Ψ Omega Ω auml ä ouml ö uuml ü Auml Ä Ouml Ö Uuml Ü szlig ß eacute é egrave è ecirc ê agrave à aacute á ccedil ç
  ntilde ñ oslash ø aring å aelig æ`.trim().split(/[ \n]+/).reduce((pairs, word, i, all) => i % 2 ? pairs : [...pairs, [word, all[i + 1]]], []));
const ENTITY = /&(?:#(\d{1,7})|#[xX]([\da-fA-F]{1,6})|([A-Za-z][A-Za-z\d]{1,30}));/y;

/** The character of a match of ENTITY; the source, if it names none. */
function entity([source, decimal, hex, name]) {
  if (name) return Object.hasOwn(ENTITIES, name) ? ENTITIES[name] : source;
  const code = decimal ? Number(decimal) : parseInt(hex, 16);
  return code && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
}

/** A text with its escapes and entities replaced. */
const unescaped = text => text.replace(/\\([!-/:-@[-`{-~])|(&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,30});)/g, (_, sign, name) => {
  ENTITY.lastIndex = 0;
  return sign ?? entity(ENTITY.exec(name));
});

// ---- Markdown: text inside blocks ----

const PLAIN = /(?:(?!https?:\/\/)[^\\`*_~[\]!<&\n$])+/y, BARE = /https?:\/\/[^\s<>[\]"`]+/y, PUNCTUATION = /^[\p{P}\p{S}]/u;
const AUTOLINK = /<([A-Za-z][A-Za-z\d+.-]{1,31}:[^\x00-\x20<>]*)>/y, BREAK = /<br[ \t]*\/?>/iy;
const EMAIL = /<([\w.!#$%&'*+/=?^`{|}~-]+@[A-Za-z\d](?:[A-Za-z\d-]{0,61}[A-Za-z\d])?(?:\.[A-Za-z\d](?:[A-Za-z\d-]{0,61}[A-Za-z\d])?)*)>/y;
const TAG = /<\/?[A-Za-z][A-Za-z\d-]*(?:\s[^<>]{0,1000})?>/y, LABEL = /\[((?:[^\\[\]]|\\[^]){0,999})\]/y;
const TITLE = /"(?:[^"\\]|\\[^]){0,2000}"|'(?:[^'\\]|\\[^]){0,2000}'|\((?:[^()\\]|\\[^]){0,2000}\)/y;
/** Scripts without spaces between words: beside them a run of * need not look like the edge of a word. */
const WIDE = /^[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}]/u;

const isSafe = href => /^(?:https?:\/\/|mailto:)/i.test(href);

/** `(destination "title")` at a place of a text: { href, title, end }, or nothing. */
function target(text, at) {
  const blank = () => { while (/\s/.test(text[at] ?? "")) at++; };
  at++;
  blank();
  let href = "", title;
  const bracketed = /<((?:[^<>\n\\]|\\.){0,2000})>/y;
  bracketed.lastIndex = at;
  const match = bracketed.exec(text);
  if (match) {
    href = match[1];
    at += match[0].length;
  } else if (text[at] === "<") {
    return null;
  } else {
    const begin = at;
    for (let depth = 0; at < text.length && text[at] > " " && at - begin < 2000; at++) {
      if (text[at] === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) at++;
      else if (text[at] === "(") depth++;
      else if (text[at] === ")" && --depth < 0) break;
    }
    href = text.slice(begin, at);
  }
  const end = at;
  blank();
  TITLE.lastIndex = at;
  const quoted = at > end && TITLE.exec(text);
  if (quoted) {
    title = unescaped(quoted[0].slice(1, -1));
    at += quoted[0].length;
    blank();
  }
  return text[at] === ")" ? { href: encoded(unescaped(href)), title, end: at + 1 } : null;
}

/** Adds the nodes of a text to an element. `context`: { definitions, allows: which targets may be links }. */
function inline(box, text, { definitions, allows }) {
  let i = 0, plain = "";
  const delimiters = [], brackets = [], missing = new Set();
  const match = pattern => { pattern.lastIndex = i; return pattern.exec(text); };
  const flush = () => { if (plain) box.append(plain); plain = ""; };
  const add = node => { flush(); box.append(node); return node; };
  const mark = sign => add(document.createTextNode(sign));
  const link = (href, title, ...children) =>
    make("a", { href, target: "_blank", rel: "noopener noreferrer", ...(title && { title }) }, ...children);
  /** Where a sign ends what begins here. What is not found once is not looked for again. */
  const find = (sign, begin) => {
    const at = missing.has(sign) ? -1 : text.indexOf(sign, begin);
    if (at < 0) missing.add(sign);
    return at;
  };

  while (i < text.length) {
    const here = text[i];
    let found = match(PLAIN);
    if (found) {
      plain += found[0];
      i += found[0].length;
    } else if (here === "\\") {
      const next = text[i + 1];
      if ((next === "(" || next === "[") && math(next === "(" ? "\\)" : "\\]")) continue;
      if (next === "\n") { add(make("br")); i++; skipBlanks(); }
      else if (/[!-/:-@[-`{-~]/.test(next ?? "")) { plain += next; i += 2; }
      else { plain += here; i++; }
    } else if (here === "$") {
      if (text[i + 1] === "$" && math("$$")) continue;
      plain += here;
      i++;
    } else if (here === "`") {
      codeSpan();
    } else if (here === "*" || here === "_" || here === "~") {
      run(here);
    } else if (here === "[" || (here === "!" && text[i + 1] === "[")) {
      const sign = here === "[" ? "[" : "![";
      i += sign.length;
      brackets.push({ node: mark(sign), begin: i, bottom: delimiters.length, isImage: sign === "![", active: true });
    } else if (here === "]") {
      closeBracket();
    } else if (here === "\n") {
      const hard = plain.endsWith("  ");
      plain = plain.trimEnd();
      if (hard) add(make("br"));
      else plain += "\n";
      skipBlanks();
    } else if (here === "&" && (found = match(ENTITY))) {
      plain += entity(found);
      i += found[0].length;
    } else if (here === "<" && (found = match(AUTOLINK) ?? match(EMAIL))) {
      const href = found[1].includes(":") ? found[1] : `mailto:${found[1]}`;
      if (allows(href)) add(link(encoded(href), "", found[1]));
      else plain += found[0];
      i += found[0].length;
    } else if (here === "<" && (found = match(BREAK))) {
      add(make("br"));
      i += found[0].length;
      while (text[i] === " ") i++;
      if (text[i] === "\n") skipBlanks();
    } else if (here === "<" && (found = match(TAG))) {
      plain += found[0]; // HTML is shown as it is
      i += found[0].length;
    } else if (here === "h" && (found = match(BARE))) {
      let href = found[0].replace(/(?:[?!.,:;*_~'"]|&[A-Za-z\d]+;)+$/, "");
      const [open, shut] = ["(", ")"].map(sign => href.split(sign).length);
      if (shut > open) href = href.replace(/\)+$/, ends => ends.slice(0, Math.max(0, ends.length - shut + open)));
      if (href.length > 8) add(link(encoded(href), "", href));
      else plain += href;
      i += href.length;
    } else {
      plain += here;
      i++;
    }
  }
  flush();
  emphasise(0);
  box.normalize();
  return box;

  /** After a line break: leading blanks of the next line do not count. */
  function skipBlanks() {
    for (i++; text[i] === " " || text[i] === "\t"; i++);
  }

  function math(sign) {
    const end = find(sign, i + 2);
    if (end < 0 || !text.slice(i + 2, end).trim()) return false;
    add(make("code", { className: "math" }, text.slice(i, end + 2)));
    i = end + 2;
    return true;
  }

  function codeSpan() {
    const [ticks] = match(/`+/y), begin = i + ticks.length, runs = /`+/g;
    i = begin;
    runs.lastIndex = begin;
    for (let end; !missing.has(ticks) && (end = runs.exec(text));) {
      if (end[0] !== ticks) continue;
      let code = text.slice(begin, end.index).replaceAll("\n", " ");
      if (code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
      add(make("code", {}, code));
      i = runs.lastIndex;
      return;
    }
    missing.add(ticks);
    plain += ticks;
  }

  /** A run of signs of emphasis: what it may open and close depends on the characters beside it. */
  function run(sign) {
    let end = i;
    while (text[end] === sign) end++;
    const length = end - i, isLow = /[\udc00-\udfff]/.test(text[i - 1] ?? "");
    const left = i ? text.slice(i - (isLow ? 2 : 1), i) : " ", right = text.slice(end, end + 2) || " ";
    const isSpace = text => /^\s/.test(text), isSign = text => PUNCTUATION.test(text), isWide = text => WIDE.test(text);
    const opens = !isSpace(right) && (!isSign(right) || isSpace(left) || isSign(left) || isWide(left));
    const closes = !isSpace(left) && (!isSign(left) || isSpace(right) || isSign(right) || isWide(right));
    const inWord = sign === "_";
    i = end;
    if (sign === "~" && length !== 2) plain += sign.repeat(length);
    else delimiters.push({ node: mark(sign.repeat(length)), sign, length, left: length,
      opens: opens && (!inWord || !closes || isSign(left)), closes: closes && (!inWord || !opens || isSign(right)) });
  }

  /** Pairs the runs from a place on, and ends them. */
  function emphasise(bottom) {
    const floors = {}; // by kind of closer: where no opener for it lies below
    for (let c = bottom; c < delimiters.length; c++) {
      const closer = delimiters[c];
      while (closer.closes && closer.left) {
        const kind = `${closer.sign}${closer.opens}${closer.length % 3}`, floor = floors[kind] ?? bottom;
        let o = c - 1;
        while (o >= floor && !(delimiters[o].left && delimiters[o].opens && pairs(delimiters[o], closer))) o--;
        if (o < floor || !wrap(delimiters[o], closer)) {
          floors[kind] = c;
          break;
        }
        for (let between = o + 1; between < c; between++) delimiters[between].left = 0;
      }
    }
    delimiters.length = bottom;
  }

  function pairs(opener, closer) {
    const sum = opener.length + closer.length, both = opener.closes || closer.opens;
    return opener.sign === closer.sign && !(both && opener.sign !== "~" && sum % 3 === 0 && opener.length % 3);
  }

  function wrap(opener, closer) {
    const n = Math.min(opener.left, closer.left, 2);
    let depth = 1;
    for (let node = opener.node.nextSibling; node !== closer.node; node = node.nextSibling) depth = Math.max(depth, (node.depth ?? 0) + 1);
    if (depth > DEPTH) return false;
    const element = make(opener.sign === "~" ? "del" : n === 2 ? "strong" : "em", { depth });
    while (opener.node.nextSibling !== closer.node) element.append(opener.node.nextSibling);
    opener.node.after(element);
    for (const run of [opener, closer]) {
      run.left -= n;
      run.node.data = run.node.data.slice(n);
    }
    return true;
  }

  /** `]`: the end of a link or of an image, or a character. */
  function closeBracket() {
    const opener = brackets.pop();
    const end = i++;
    if (!opener?.active) { plain += "]"; return; }
    let place = text[i] === "(" ? target(text, i) : null;
    if (!place) {
      const label = match(LABEL), own = text.slice(opener.begin, end);
      const name = label?.[1].trim() ? label[1] : own.length < 1000 && /^(?:[^\\[\]]|\\[^])*$/.test(own) ? own : "";
      const known = name && definitions.get(labelOf(name));
      if (known) place = { ...known, end: label ? i + label[0].length : i };
    }
    if (!place || !allows(place.href)) { plain += "]"; return; }
    flush();
    emphasise(opener.bottom);
    const element = link(place.href, place.title);
    while (opener.node.nextSibling) element.append(opener.node.nextSibling);
    element.querySelectorAll("a").forEach(inner => inner.replaceWith(...inner.childNodes));
    // An image is not loaded: a request to another server would reveal the reader. Its text links to it.
    if (opener.isImage) {
      element.replaceChildren(element.textContent || "image");
      element.className = "image";
    } else for (const bracket of brackets) if (!bracket.isImage) bracket.active = false;
    opener.node.replaceWith(element);
    i = place.end;
  }
}

// ---- Markdown: elements ----

/** The text of a block of code: the lines that were settled before, each with its end, and those of now. */
const codeText = ({ before, lines, text }) => lines.length ? before + text : before.slice(0, -1);

/** Adds to shown code what is new of it. Only the last lines are looked at, so that long code grows in linear time. */
function growCode(element, old, block) {
  const settled = block.before.length - old.before.length, rest = old.text.slice(settled); // what is shown of the lines of now
  const end = settled > old.text.length ? "\n" : "";
  if (block.text.startsWith(rest)) element.append(end + block.text.slice(rest.length));
  else element.replaceChildren(codeText(block));
}

function codeElement(block, isWhole) {
  const code = make("code"), name = unescaped(block.info ?? "").split(/\s/)[0];
  const copying = button("Copy", () => copy(code.textContent, copying), { ariaLabel: "Copy the code" });
  if (isWhole || !block.open) highlight(code, codeText(block), name);
  else code.append(codeText(block));
  return make("div", { className: "code" }, make("div", {}, name || "code", copying), make("pre", { tabIndex: 0 }, code));
}

function tableElement({ columns, rows }, context) {
  // Missing cells of a row are added where they can only be few.
  const row = (values, tag) => make("tr", {}, ...columns.slice(0, Math.max(values.length, 20)).map((side, i) => {
    const cell = inline(make(tag), values[i] ?? "", context);
    if (side) cell.style.textAlign = ["", "left", "right", "center"][side];
    return cell;
  }));
  const body = rows.slice(1).map(values => row(values, "td"));
  return make("div", { className: "table", tabIndex: 0 },
    make("table", {}, make("thead", {}, row(rows[0], "th")), ...(body.length ? [make("tbody", {}, ...body)] : [])));
}

function itemElement(item, loose, context) {
  const element = make("li"), first = item.children[0];
  const task = first?.kind === "text" && /^\[([ xX])\][ \t]+(?=\S)/.exec(first.text);
  if (task) {
    first.text = first.text.slice(task[0].length);
    element.className = "task";
  }
  for (const child of item.children) {
    if (child.kind === "text" && !loose) inline(element, child.text, context);
    else element.append(blockElement(child, context));
  }
  if (task) (loose ? element.firstChild : element).prepend(
    make("input", { type: "checkbox", disabled: true, checked: task[1] !== " ", ariaLabel: task[1] === " " ? "open" : "done" }), " ");
  return element;
}

function blockElement(block, context) {
  const inside = () => block.children.map(child => blockElement(child, context));
  switch (block.kind) {
    case "quote": return make("blockquote", {}, ...inside());
    case "list": {
      const items = block.children.map(item => itemElement(item, block.loose, context));
      return block.start === undefined ? make("ul", {}, ...items) : make("ol", { start: Number(block.start) }, ...items);
    }
    case "heading": return inline(make(`h${block.level}`), block.text, context);
    case "rule": return make("hr");
    case "code": return codeElement(block, context.isWhole);
    case "math": return make("pre", { className: "math", tabIndex: 0 }, make("code", {}, block.text));
    case "table": return tableElement(block, context);
    default: return inline(make("p"), block.text, context);
  }
}

/** Makes an element equal to another, and leaves its equal parts untouched: what is selected there stays selected. */
function morph(old, now) {
  if (old.isEqualNode(now)) return old;
  if (old.nodeType === Node.TEXT_NODE && now.nodeType === Node.TEXT_NODE) {
    if (now.data.startsWith(old.data)) old.appendData(now.data.slice(old.length));
    else old.data = now.data;
  } else if (old.nodeType === Node.ELEMENT_NODE && now.nodeType === Node.ELEMENT_NODE && old.cloneNode().isEqualNode(now.cloneNode())) {
    const parts = [...now.childNodes], mine = [...old.childNodes];
    mine.slice(parts.length).forEach(part => part.remove());
    parts.forEach((part, i) => mine[i] ? morph(mine[i], part) : old.append(part));
  } else {
    old.replaceWith(now);
    return now;
  }
  return old;
}

/**
 * A function that shows a growing text in `box`. Blocks that can no longer change stay untouched, so that the cost of a
 * long answer grows with its length only.
 */
function writer(box, allows = isSafe) {
  let from = 0, live = [], known = new Map(), code; // the blocks from there on with their elements, definitions before
  return function write(text, isWhole = true) {
    const rest = text.slice(from), definitions = new Map(known);
    const blocks = parseBlocks(rest, definitions, isWhole, code), context = { definitions, allows, isWhole };
    if (isWhole && from && definitions.size) { // a definition may stand behind its use
      from = 0;
      live = [];
      known = new Map();
      code = undefined;
      box.replaceChildren();
      return write(text);
    }
    live.splice(blocks.length).forEach(({ element }) => element.remove());
    blocks.forEach((block, i) => {
      const { block: old, element } = live[i] ?? {};
      if (old?.kind === "code" && block.kind === "code" && block.open && !isWhole && block.info === old.info) {
        growCode(element.querySelector("code"), old, block);
        live[i].block = block;
        return;
      }
      const now = blockElement(block, context);
      if (!element) box.append(now);
      else if (block.kind === "code") element.replaceWith(now); // its button belongs to it
      live[i] = { block, element: element && block.kind !== "code" ? morph(element, now) : now };
    });
    if (isWhole) return;
    // A block whose first line is whole stays a block of its own: what lies before it is settled.
    const settled = blocks.findLastIndex(block => rest.includes("\n", block.from));
    if (settled < 0) return;
    if (definitions.size > known.size) parseBlocks(rest.slice(0, blocks[settled].from), known, true, code);
    if (settled > 0) {
      from += blocks[settled].from;
      live = live.slice(settled);
      code = undefined;
    }
    // So are the whole lines of code that is still open.
    const { block } = live[0];
    if (live.length === 1 && block.fence && block.open) {
      const end = text.lastIndexOf("\n") + 1, { fence, info, indent } = block;
      const lines = end < text.length ? block.lines.slice(0, -1) : block.lines;
      const before = block.before + lines.map(line => `${line}\n`).join("");
      code = { kind: "code", fence, info, indent, from: 0, first: 0, before };
      from = end;
    }
  };
}

// ---- Colours of code ----

const HASHES = new Set("bash sh shell zsh python py ruby rb yaml yml toml make makefile dockerfile perl r elixir nix cmake ini conf".split(" "));
const DASHES = new Set("sql lua haskell hs ada".split(" "));
const SLASHES = new Set(`c cpp c++ h hpp cs csharp java js javascript jsx ts typescript tsx rust rs go golang swift kotlin kt scala php dart zig json
  json5 css scss metal glsl wgsl cuda objc proto solidity groovy`.split(/\s+/));
const WORDS = `abstract and as assert async await begin bool boolean break case catch char class const constexpr continue crate def default defer del
  delete do double dyn elif else end enum except export extends extern false final finally float fn for foreach from func function global go goto
  if impl implements import in include instanceof int interface is lambda let local long loop match mod module move mut namespace new nil None not
  null nullptr or override package pass private protected pub public raise ref register return Self self short signed sizeof static struct
  super switch template then this throw throws trait true True try type typedef typeof union unsafe unsigned until use using var virtual void
  volatile where while with yield False`.split(/\s+/);
const SQL_WORDS = `select insert update delete from where join left inner outer on group order by having create alter drop table index view values into set
  limit offset union all distinct as and or not null is in like between case when then else end primary key`.split(/\s+/);
const STRINGS = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'`;
const REST = String.raw`(?<number>\b(?:0[xX][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*)|(?<word>\b[A-Za-z_]\w*)`;
// What is not closed goes to the end, so that the time grows with the length only.
const LANGUAGES = [[HASHES, String.raw`#[^\n]*|"""[^]*?(?:"""|$)`], [DASHES, String.raw`--[^\n]*|\/\*[^]*?(?:\*\/|$)`],
  [SLASHES, String.raw`\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)`]].map(([names, comment]) => ({ names,
    pattern: new RegExp(`(?<comment>${comment})|(?<string>${STRINGS}${names === SLASHES ? "|`(?:[^`\\\\]|\\\\[^])*(?:`|\\\\?$)" : ""})|${REST}`, "g") }));
const KEYWORDS = new Set(WORDS), SQL_KEYWORDS = new Set(SQL_WORDS);

/** Adds code to an element: comments, strings, numbers and the usual keywords in their colours. */
function highlight(element, text, name) {
  const language = LANGUAGES.find(({ names }) => names.has(name.toLowerCase()));
  if (!language || text.length > 60_000) { element.append(text); return; }
  let at = 0;
  const isSql = name.toLowerCase() === "sql";
  for (const found of text.matchAll(language.pattern)) {
    const { comment, string, number, word } = found.groups;
    const isWord = word && (isSql ? SQL_KEYWORDS.has(word.toLowerCase()) : KEYWORDS.has(word));
    const kind = comment ? "comment" : string ? "string" : number ? "number" : isWord ? "word" : "";
    if (!kind) continue;
    element.append(text.slice(at, found.index), make("span", { className: kind }, found[0]));
    at = found.index + found[0].length;
  }
  element.append(text.slice(at));
}
