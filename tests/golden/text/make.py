"""Makes the reference files of this folder, with software that shares no code with the project:
tokenizers (Python), jinja2, numpy, pyarrow and Python's own random module.

  pip install tokenizers jinja2 numpy pyarrow && python make.py
"""
import json, os, random
import jinja2.sandbox
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

here = os.path.dirname(os.path.abspath(__file__))
os.makedirs(os.path.join(here, "tokenizer"), exist_ok=True)


def save(name, value):
    with open(os.path.join(here, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, indent=1)
        f.write("\n")


# ---- a byte-level BPE of 300 tokens, digits alone
corpus = ["The answer is seven, and the answer is sure.", "How sure are you that the other answer is there?",
          "user assistant system <think>", "She sells the sea shells; the shells she sells are sea shells, sure."] * 4
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
tokenizer.decoder = decoders.ByteLevel()
specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=300, special_tokens=specials, show_progress=False,
                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
tokenizer.save(os.path.join(here, "tokenizer/tokenizer.json"))
save("tokenizer/tokenizer_config.json", {"bos_token": "<|endoftext|>", "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"})
save("tokenizer/generation_config.json", {"eos_token_id": [2, 0]})

blind_document = json.loads(tokenizer.to_str())
blind_document["added_tokens"] = []
blind = Tokenizer.from_str(json.dumps(blind_document))
texts = ["", " ", "  two  spaces ", "The answer is 42.", "1234567890", "\t\r\n\n", "naïve café, cafe\u0301", "日本 🙂👍🏽", "\u0661\u0662 \u00b2\u216b",
         "a\u00a0b\u200bc\ufeff", "I'm sure they'll say it's DON'T", "<|im_start|>user\nsure?<|im_end|>\n", "a<|endoftext|>b", "<|im_start|", "{\"answer\": 0.9}"]
cases = []
for text in texts:
    row = {"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids}
    as_text = blind.encode(text, add_special_tokens=False).ids
    if as_text != row["ids"]:
        row["ids_specials_as_text"] = as_text
    cases.append(row)
save("tokenizer-cases.json", {"strings": cases})


# ---- chat templates of several manners, rendered by jinja2
def fail(message):
    raise jinja2.exceptions.TemplateError(message)


templates = {
    "default-system": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
                      "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
                      "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "bos-and-trim": "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] | trim %}\n    {%- set messages = messages[1:] %}\n"
                    "{%- else %}\n    {%- set system = 'Stay brief.' %}\n{%- endif %}\n{{- '<|im_start|>system\n' + system + '<|im_end|>' }}\n"
                    "{%- for m in messages %}\n    {{- '<|im_start|>' + m['role'] + '\n\n' + m['content'] | trim + '<|im_end|>' }}\n{%- endfor %}\n"
                    "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n\n' }}\n{%- endif %}\n",
    "merged-system": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}{% set rest = messages[1:] %}"
                     "{% else %}{% set s = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
                     "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}{% if m['role'] == 'user' %}"
                     "{{ '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
    "thoughts-of-the-last-turn": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
                                 "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
}
chats = [
    [{"role": "user", "content": "How sure are you?"}],
    [{"role": "system", "content": "Say it."}, {"role": "user", "content": "Is the answer 7?"}],
    [{"role": "user", "content": "Is it there?"}, {"role": "assistant", "content": "Sure."}, {"role": "user", "content": "日本 🙂"}],
    [{"role": "user", "content": " {{ no }} "}, {"role": "assistant", "content": "It is.\n"}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "Seven"}],
]
environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
environment.globals["raise_exception"] = fail
rendered = []
for name, source in templates.items():
    template = environment.from_string(source)
    render = lambda m, g: template.render(messages=m, add_generation_prompt=g, bos_token="<|endoftext|>", eos_token="<|im_end|>")
    rendered.append({"name": name, "template": source, "chats": [
        {"messages": m, "without_generation_prompt": render(m, False), "with_generation_prompt": render(m, True)} for m in chats]})
save("chat-cases.json", rendered)

# ---- random numbers
seeds = [0, 1, 7, 123456789, 2**40 + 5, [0, 3], [4, 2], [2**33, 1]]
numpy_cases = []
for seed in seeds:
    g = np.random.default_rng(seed)
    numpy_cases.append({"seed": seed, "words": [str(w) for w in np.random.PCG64(seed).random_raw(4)], "random": [float(v) for v in g.random(3)],
                        "permutation": np.random.default_rng(seed).permutation(50).tolist(),
                        "twice": [np.random.default_rng(seed).permutation(7).tolist(), (lambda r: (r.permutation(7), r.permutation(9))[1].tolist())(np.random.default_rng(seed))]})
large = np.random.default_rng(11).permutation(5000)
python_cases = []
for seed in [0, 1, 7, 1000, 123456789, 2**40 + 5]:
    r = random.Random(seed)
    row = {"seed": seed, "random": [r.random() for _ in range(3)], "words": [r.getrandbits(32) for _ in range(3)], "bits": [r.getrandbits(k) for k in (1, 7, 33, 40)]}
    x = list(range(40)); random.Random(seed).shuffle(x); row["shuffle"] = x
    row["sample"] = [random.Random(seed).sample(range(30), 8), random.Random(seed).sample(range(10000), 5)]
    row["choice"] = (lambda r: [r.randrange(10), r.randrange(1000), r.randint(5, 9)])(random.Random(seed))
    python_cases.append(row)
save("random-cases.json", {"numpy": numpy_cases, "numpy_5000": {"seed": 11, "head": large[:20].tolist(), "tail": large[-20:].tolist()}, "python": python_cases})


# ---- the order of training batches: shuffled, sorted by length within windows of 8 batches, batches shuffled
def batches(lengths, size, rng):
    order = list(range(len(lengths))); rng.shuffle(order)
    window = size * 8
    order = [i for w in range(0, len(order), window) for i in sorted(order[w:w + window], key=lambda i: lengths[i])]
    out = [order[b:b + size] for b in range(0, len(order), size)]; rng.shuffle(out)
    return out


rng = random.Random(3)
lengths = [rng.randrange(5, 60) for _ in range(150)]
rng = random.Random(5)
save("batch-cases.json", {"lengths": lengths, "size": 4, "seed": 5, "epochs": [batches(lengths, 4, rng) for _ in range(2)]})


# ---- the same three questions as Parquet and Arrow (file and stream)
table = pa.table({"id": pa.array([7, 8, 9], pa.int64()), "question": ["Where does the Rhone rise?", "1 + 1?", "日本?"],
                  "answer": [["Furka", "Switzerland"], ["2"], ["Japan"]], "confidence": [0.5, 0.25, 1.0], "group": ["a", None, "b"],
                  "from": [{"page": 1}, {"page": 2}, None]})
pyarrow.parquet.write_table(table, os.path.join(here, "questions.parquet"))
with pa.OSFile(os.path.join(here, "questions.arrow"), "wb") as f, pa.ipc.new_file(f, table.schema) as w:
    w.write_table(table)
with pa.OSFile(os.path.join(here, "questions-stream.arrow"), "wb") as f, pa.ipc.new_stream(f, table.schema) as w:
    w.write_table(table)
