#!/usr/bin/env python3
"""Golden tokenizations from an independent implementation: the Python package `tokenizers`.

    scripts/golden_tokenizer.py tests/golden/dsv4-vocab.gguf models/tiny-q4.gguf > tests/golden/tokenizer_hard.jsonl

The tokenizer is built here from the vocabulary of the file (read with the package `gguf`) and the splits of the
release's tokenizer.json; before anything is written it has to reproduce tests/golden/tokenizer_cases.jsonl.
One line a text: `ids` and `plain` under the first vocabulary, with and without the special tokens in the text,
`tiny` the ids under the second one, with them.
"""
import json
import pathlib
import random
import sys

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

SEED = 4
CASES = pathlib.Path(__file__).parent.parent / "tests/golden/tokenizer_cases.jsonl"
SPLITS = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
]


def load(path, special):
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    split = [pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split + [byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    if special:
        # Type 3 is control, 4 is user-defined.
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types) if k in (3, 4)])
    return tokenizer


FIXED = [
    # Emoji: skin tones, families, flags, keycaps, tags, presentation.
    "👍🏽👍🏿ok", "👨‍👩‍👧‍👦 family", "🏳️‍🌈🏴‍☠️", "1️⃣2️⃣#️⃣*️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿!", "☺︎☺️ ☹", "🇩🇪🇯🇵🇺", "a👍b👍 c", "👍\n\n👍\r\n", " 👍  👍",
    # CJK, kana, hangul, and their punctuation.
    "漢字かなカナ混じり文。", "ア・イ・ウ", "コーヒーを２杯", "か\u3099が\u309b゛", "「引用」『二重』", "한국어 텍스트 123개", "한글", "中文English混排123测试",
    "龥龦龧一丁", "㐀㐁𠀀𠀁", "〇一二三", "第１２３４章", "你好，世界！\n再见。", "ｶﾞｷﾞ全角ＡＢＣ", "ㄅㄆㄇ ㆠ", "\u3040あ\u3097ん\u30a0ヿ", "々〆ヶ", "価格は¥1,234.56です",
    # Digits of other scripts, numbers that are no digits.
    "١٢٣٤٥٦٧", "१२३४ ५६७८", "๑๒๓๔", "𝟘𝟙𝟚𝟛𝟜", "ⅣⅧⅫ ⅷ", "½¾⅐ 1½", "①②③④⑤", "x²y³z⁴", "௧௨௩௰", "1234567890", "12 345 678", "3.14159e-10", "0xDEADBEEF", "1a2b3c4d", "123४५६abc", "〡〢〣〤",
    # Combining marks.
    "e\u0301e\u0301 \u0301x", "\u0301", " \u0301", "1\u0301", "!\u0301a", "\n\u0301a", "\u200b\u0301", "क्षत्रिय हिन्दी", "தமிழ் மொழி", "ภาษาไทย", "العَرَبِيَّة", "עִבְרִית", "Z̸̢͓a̷̡l̵g̶o̴", "ង្ការ ខ្មែរ", "မြန်မာ", "\u20dd\u20dda", "a\ufe0f\ufe0fb",
    # White space.
    "a\r\n\r\nb", "\r\r\n\n\r", "a \r\n b", " \r\n \r\n x", "\n \n  \n   x", "x\n\n\n", "x \n", "x  \n  ", "\t\t\tx\ty", " \t x", "a\u00a0b", "a\u00a0\u00a0b", "\u00a0\u00a0", "\u00a0\n\u00a0x", "a\u2003b\u3000c", "\u3000\u3000段落", "a\u2028b\u2029c", "a\u0085b\u0085\n", "a\u202fb 1\u202f234", "a\u1680b", "a\x0c\x0bb", "x\x1c\x1dy", "  1", "   1", " 1", "a  1  b", "  あ", "   あ い", " !", "  !", "  !\n\n", "!\n \n!", "!!\r\n\r\n  x", " \u200b ",
    # Characters that are neither letter, sign nor space.
    "a\u200bb", "\u200b\u200b\u200bab", "\ufeffBOM", "a\u00adb", "\u200e\u200fab", "\u2060", "\x00\x01\x02", "\x00a\x00", "\x1b[31mred\x1b[0m", "\x7f\x7f", "\ue000\uf8ff", "\ue000a \ue000!", "\U000f0000x", "\u0378\u0379z", "\ufffe\uffff", "\U0010ffff", "\u200d", "a\u200d1", "\u200b \u200b\n\u200b",
    # Punctuation and code.
    "don't can't I'll we've", "DON'T", "'tis 'twas", "it’s", "snake_case __init__", "camelCase.method()", "a.b.c", "...a", "....", "-->", "--flag=value", "/usr/local/bin", "C:\\Users\\x", "#include <stdio.h>\n", "// comment\n\n\nx", "/* a */\r\n", "<a href=\"x\">y</a>", "{\"k\": [1, 2.5, null]}", "$x = @$y->{z};", "a+b==c&&d||!e", "x^2 + y^2", "~/.config", "`code`", "|a|b|", "¿Qué? ¡Sí!", "«Guillemets» „Anführung“", "—em–en‐hyphen", "€100 £5 ¥7 ₿1", "©®™", "→⇒≠≤∑∫√", "x≠y", "°C", "`a´b¨c", "a´", "!a", "!é", "!aé", ".éa", "(a)(é)", "?!?!", "\"'\"'", "\\n\\t", "﹏﹏﹏", "｜｜", "＜｜User｜＞", "．．．", "·•‣", "\u00b7a",
    # Letters that are neither upper nor lower case, other scripts.
    "Straße İIıi ǅ ŉ", "ªº ʰʲ ˈˌ", "Ελληνικά και Кириллица", "ქართული Հայերեն", "𝔘𝔫𝔦 𝕏 𝒶", "𐍈𐌰𐌹 𐤀𐤁", "ᚠᚢᚦ ᠮᠣᠩᠭᠣᠯ", "ꙮ ꜰ", "ⓐⓑⓒ", "ﬁﬂ ﷺ", "ᏣᎳᎩ ᓀᐦᐃ", "\u1c89\u1c8a", "\U00016100\U00016d40", "\U0002ebf0\u2ffc",
    # Special tokens, whole, broken, nested and doubled.
    "<｜User｜>", "<｜User｜", "<<｜User｜>>", "<｜User｜><｜User｜>", "< ｜User｜>", "<｜user｜>", "a<think>b</think>c", "<think></think>", "<think><think", "</think", "<//think>", "<|think|>", "<think>\n\n</think>\n\n", "｜DSML｜｜DSML｜", "｜DSML", "｜DSML｜DSML｜", "</｜DSML｜invoke>", "<dsml:x></dsml:x>", "<dsml", "<|EOT|>", "<|EOT|", "<｜/table>｜DSML｜", "<｜/table>｜", "<｜begin▁of▁sentence｜><｜begin▁of▁sentence｜>", "<｜begin of sentence｜>", "<｜end▁of▁sentence｜>\n", "  <｜Assistant｜>  ", "1<｜User｜>2", "<｜place▁holder▁no▁799｜>", "<｜place▁holder▁no▁7｜>9", "<|place_holder_mm_span_0001|>", "<|place_holder_mm_span_00|>", "<s></s>", "[INST] [/INST]", "<｜fim▁hole｜>x<｜fim▁end｜>", "<｜tool▁calls▁begin｜>", "<｜image｜><｜image2｜>",
    # Long runs.
    "a" * 300, "ab" * 200, " " * 301, "\n" * 77, " \n" * 50, "1" * 100, "!" * 129, "=" * 200 + "\n\n", "あ" * 60, "中" * 61, "👍" * 40, "é" * 99, "e\u0301" * 50, "\u200b" * 30, "\t" * 45, "Aa1 " * 60, "-_" * 70, "\r\n" * 33, "０" * 20, "ha" * 64 + "!",
    "",
]

ALPHABET = [
    "  \t\n\r\u00a0\u3000\u2028", "abcXYZ", "éßΩЖяø", "012", "٣²½Ⅷ", "あンー゛・", "中文字龥", "한글", "\u0301\u0903\ufe0f", "!,.-_/'<>", "«—。、｜", "+=^$€©→", "👍🏽🚀", "\u200b\u200d\u00ad\x00", "𝔘𠀀",
]


def random_texts(n):
    rng = random.Random(SEED)
    for _ in range(n):
        text = ""
        for _ in range(rng.randint(1, 14)):
            kind = rng.choice(ALPHABET)
            text += "".join(rng.choice(kind) for _ in range(rng.randint(1, 3)))
        yield text


def main():
    real, plain, tiny = load(sys.argv[1], True), load(sys.argv[1], False), load(sys.argv[2], True)
    for line in CASES.read_text().splitlines():
        case = json.loads(line)
        assert real.encode(case["text"]).ids == case["ids"], case
        assert plain.encode(case["text"]).ids == case.get("plain", case["ids"]), case
    for text in FIXED + list(random_texts(80)):
        ids = {"ids": real.encode(text).ids, "plain": plain.encode(text).ids, "tiny": tiny.encode(text).ids}
        print(json.dumps({"text": text, **ids}, separators=(",", ":")))


if __name__ == "__main__":
    main()
