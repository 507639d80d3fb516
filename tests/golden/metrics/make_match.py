"""Writes match.json: what the reference's norm, has_answer and agree_f1 say of many odd strings.

  python make_match.py elical_reference.py > match.json
"""
import json, random, string, sys, unicodedata

source = open(sys.argv[1]).read()
names = {"string": string, "unicodedata": unicodedata}
exec(source[source.index("PUNCT ="):source.index("SHOTS =")], names)
rng = random.Random(5)

words = """The capital of Kenya is Nairobi a an the THE Theatre théâtre São Tomé and Príncipe Côte d'Ivoire St. John's Saint U.S. dollar
Rhône Rhone Zürich ZÜRICH Ångström naïve İstanbul ISTANBUL ΣΊΣΥΦΟΣ Σίσυφος ﬁne ½ ② Ⅷ ﷼ 東京 とうきょう カﾞ हिन्दी दिल्ली กรุงเทพฯ عَرَبِيّ
עִבְרִית Tiếng Việt straße STRASSE don't it's -- ... ? ! ¿Qué? «oui» “quoted” a.b.c x_y 3.14 1,000 N'Djamena Washington, D.C. country located
region which this with for ǅ ŉ ﬀ ͅα ᾳ é ё й Й ﾊﾟ 각 각 ẛ̣ a̴ o̴̧ 🇰🇪 👩‍🔬 ꙮ ⃝ x⃝ ः नः""".split()
spaces = [" ", " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\x1c", "\x85", "\ufeff", ""]


def text():
    return "".join(rng.choice(words) + rng.choice(spaces) for _ in range(rng.randrange(0, 9)))


def any_text():
    return "".join(chr(c) for c in (rng.choice([rng.randrange(0x20, 0x530), rng.randrange(0x300, 0x370), rng.randrange(0x900, 0xd00),
                   rng.randrange(0x1d00, 0x2200), rng.randrange(0xa640, 0xab00), rng.randrange(0xf900, 0xfe00)]) for _ in range(10))
                   if unicodedata.category(chr(c)) != "Cn")


count = int(sys.argv[2]) if len(sys.argv) > 2 else 150
cases = []
for i in range(count):
    x, q = (any_text() if i % 3 == 0 else text()), text()
    y = rng.choice([text(), x.upper(), " ".join(x.split()[1:]), x + " " + q])
    answers = [rng.choice([text(), y, "", "the"]) for _ in range(2)] + [" ".join(y.split()[:2])]
    cases.append({"x": x, "y": y, "question": q, "answers": answers, "norm": names["norm"](x),
                  "has_answer": names["has_answer"](answers, y), "agree_f1": names["agree_f1"](x, y, q)})
print("[\n" + ",\n".join(json.dumps(c, ensure_ascii=True) for c in cases) + "\n]")
