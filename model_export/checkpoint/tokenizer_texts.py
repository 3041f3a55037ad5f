"""Texts on which two tokenizers are compared: languages and writing systems, and what normalizers and splitters treat differently."""

from typing import Final

_SINGLE: Final = (
    "Hello world",
    "HELLO World, café Ünïcode ÀÉÎõü",
    "  two  spaces   at each place  ",
    "a tab\tand\nnew\r\nlines",
    "zero\u200bwidth \u200djoiner \ufeffmark",
    "full width \uff21\uff22\uff23\uff11\uff12\uff13\uff01 ﬁ",
    "no-break\u00a0ideographic\u3000em\u2003space",
    "e\u0301 and a\u030a composed of two",
    "ß ẞ İ \u0131 Σς ﷺ ㍿ ① ½ ² ™",
    "\u0958 \u0e33 \u1e9b\u0323",
    "\U0001d4b3 \U0001d538 𠀀",
    "don't can't it's we'll o'clock",
    "3.14 1,000 $5 50% #tag @user http://a.b/c?d=e 2024-05-03",
    "a-b_c/d\\e|f (g) [h] {i} <j>",
    "“quotes” \u2018single\u2019 … — \u2013",
    "▁word ▁ Ġword ##ing </w>",
    "[MASK] between [SEP] and [CLS] [PAD] [UNK]",
    "<mask> between </s> and <s> <pad> <unk>",
    "The capital of France is <mask>.",
    "The capital of France is [MASK] .",
    "Not a space before<mask>it[MASK]is",
    "😀 👍🏽 👨\u200d👩\u200d👧 🇫🇷",
    "donaudampfschifffahrtsgesellschaft pneumonoultramicroscopicsilicovolcanoconiosis",
    "x" * 120,
    "The film was slow at first, but its last hour is among the best I have ever seen.",
    "Where is my order #40317? It should have come on 3 May!",
    "Der Kaffee war kalt und die Bedienung unfreundlich.",
    "Le service était impeccable, même à Noël.",
    "El niño comió una manzana mañana por la mañana.",
    "Zażółć gęślą jaźń, příliš žluťoučký kůň",
    "Tiếng Việt có nhiều dấu.",
    "这家餐厅的菜很好吃服务也不错。",
    "これは とても良い本です。ガギグ ｶﾞｷﾞ",
    "한국어 문장입니다 \u1112\u1161\u11ab",
    "สวัสดีครับ",
    "हिन्दी में लिखा",
    "שלום עוֹלָם",
    "الخدمة كانت مُمتازة",
    "Эта книга мне совсем не понравилась, ё й",
    "Καλημέρα κόσμε",
    " ",
    "",
)
CONTROL_CHARACTERS: Final = ("bell \x07 escape \x1b delete \x7f", "line\u2028separator next\u0085line")
_PAIRS: Final = (
    ("A man is playing a guitar.", "Someone is making music."),
    ("谁喜欢喝茶?", "我喜欢喝茶,不喜欢喝咖啡。"),
    ("one [SEP] two", "three </s> four"),
)
TEXTS: Final[tuple[tuple[str, str | None], ...]] = (
    *((text, None) for text in (*_SINGLE, *CONTROL_CHARACTERS)),
    *_PAIRS,
)
"""Each with its pair, if it has one."""
