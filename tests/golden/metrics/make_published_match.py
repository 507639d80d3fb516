"""Writes published-match.json: EliCal's published string match, written from its description, on many odd strings.

  python make_published_match.py > published-match.json         (needs the package regex)

NFD, lower case, ASCII punctuation to spaces, standalone a/an/the to spaces, runs of letters, numbers and marks or single
other characters as tokens; true where one answer's tokens stand in the text's in a row.
"""
import json, random, re, string, unicodedata

import regex

rng = random.Random(11)
words = """The the THE a an A An théâtre Théâtre thé-âtre Rhône Rhone RHÔNE New York City nairobi Nairobi's U.S. 3.14 1,000 x_y
東京 とうきょう カﾞ हिन्दी กรุงเทพฯ عَرَبِيّ İstanbul ISTANBUL Σίσυφος ΣΊΣΥΦΟΣ straße ½ ② Ⅷ ﷼ €5 -- ... ¿Qué? «oui» “the” á á à thé ánthe
ẛ̣ 🇰🇪 👩‍🔬 x⃝ ः B C D Athens another anthem an1 a2 2a the_end o'the 'a' (an)""".split()
spaces = [" ", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u200b", "\x1c", "\x85", "\ufeff", ""]


def tokens(text):
    text = unicodedata.normalize("NFD", text).lower()
    text = "".join(" " if c in string.punctuation else c for c in text)
    text = " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
    return [t.lower() for t in regex.findall(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]", text)]


def has_answer(answers, text):
    whole = tokens(text)
    parts = [tokens(a) for a in answers]
    return int(any(whole[i:i + len(p)] == p for p in parts for i in range(len(whole) - len(p) + 1)))


def text(n=9):
    return "".join(rng.choice(words) + rng.choice(spaces) for _ in range(rng.randrange(0, n)))


def any_text():
    ranges = [(0x20, 0x530), (0x300, 0x370), (0x900, 0xd00), (0x1d00, 0x2200), (0xa640, 0xab00), (0xf900, 0xfe00)]
    return "".join(c for c in (chr(rng.randrange(*rng.choice(ranges))) for _ in range(10)) if unicodedata.category(c) != "Cn")


cases = []
for i in range(160):
    x = any_text() if i % 3 == 0 else text()
    part = " ".join(x.split()[1:3])
    answers = rng.choice([[part], [part.upper(), "zebra"], [text(3)], [text(3), "zebra"], ["zebra"], [rng.choice(["A", "the", "", "B"])]])
    cases.append({"answers": answers, "text": x, "match": has_answer(answers, x), "tokens": tokens(x)})
print("[\n" + ",\n".join(json.dumps(c, ensure_ascii=True) for c in cases) + "\n]")
