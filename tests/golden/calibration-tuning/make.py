"""How the published code puts records of every set, which src/methods/calibration-tuning repeats but for directives.

    python3 make.py CHECKOUT > sets.json      (activatedgeek/calibration-tuning; its libraries are not needed, NumPy is)

Records are made up in each set's published format. Of a question that is answered in words the directive, which is the first
line, is left out.
"""
import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np

checkout = Path(sys.argv[1]) / "llm" / "datasets"
for name in ("torch", "transformers", "datasets", "datasets.formatting", "datasets.formatting.formatting"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["datasets"].load_dataset = None
sys.modules["transformers"].PreTrainedTokenizer = object
sys.modules["datasets.formatting.formatting"].LazyRow = ()
for name, path in (("llm", checkout.parent), ("llm.datasets", checkout), ("llm.datasets.hf", checkout / "hf")):
    package = types.ModuleType(name)
    package.__path__ = [str(path)]
    sys.modules[name] = package
registry = types.ModuleType("llm.datasets.registry")
registry.register_dataset = lambda *a, **k: (a[0] if a else lambda f: f)
registry.DatasetTag = types.SimpleNamespace(EVAL_ONLY=0)
sys.modules["llm.datasets.registry"] = registry


def module(name):
    spec = importlib.util.spec_from_file_location(f"llm.datasets.{name}", checkout / (name.replace(".", "/") + ".py"))
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


module("llm_data_utils")
words = ["rain", "stone", "salt", "iron", "moss", "glass"]


def made(i):
    """Fields of record i in every set."""
    some = [words[(i + k) % 6] for k in range(6)]
    letters = {"text": some[:4], "label": list("ABCD")}
    entailment = {"premise": f"It is {some[0]}", "hypothesis": f"There is {some[1]}", "label": i % 3}
    return {
        "arc": {"question": f"What is {some[0]}?", "choices": letters, "answerKey": "ABCD"[i % 4] if i % 2 else str(i % 4 + 1)},
        "boolq": {"passage": f"All {some[0]} is old.", "question": f"is {some[0]} old", "answer": i % 2 == 0},
        "cb": entailment,
        "snli": entailment,
        "commonsense_qa": {"question": f"Where is {some[0]}?", "choices": letters, "answerKey": "ABCD"[i % 4]},
        "copa": {"premise": f"The {some[0]} fell.", "choice1": some[1], "choice2": some[2], "question": "cause", "label": i % 2},
        "cosmos_qa": {"context": f"Old {some[0]}.", "question": "Why?", **{f"answer{k}": some[k] for k in range(4)},
                      "label": i % 4},
        "hellaswag": {"ctx": f"A {some[0]} b", "ctx_a": "A", "ctx_b": "b", "endings": some[:4], "label": str(i % 4)},
        "math_qa": {"Problem": f"{i} + 1 ?", "options": f"a ) {i} , b ) {i + 1} , c ) x (y) 7 , d ) 8 , e ) none",
                    "correct": "b"},
        "multirc": {"paragraph": f"The {some[0]}.", "question": "Who?", "answer": some[1], "label": i % 2},
        "obqa": {"question_stem": f"All {some[0]} is", "choices": letters, "answerKey": "ABCD"[i % 4]},
        "piqa": {"goal": f"melt {some[0]}", "sol1": f"heat {some[1]}", "sol2": f"cool {some[2]}", "label": i % 2},
        "sciq": {"question": f"What is {some[0]}?", "distractor1": some[1], "distractor2": some[2], "distractor3": some[3],
                 "correct_answer": some[4], "support": "" if i % 2 else f"Of {some[0]}."},
        "siqa": {"context": f"Ana saw {some[0]}.", "question": "Then?", "answerA": some[1], "answerB": some[2],
                 "answerC": some[3], "label": str(i % 3 + 1)},
        "story_cloze": {**{f"input_sentence_{k}": f"{some[k]}." for k in range(1, 5)}, "sentence_quiz1": some[0],
                        "sentence_quiz2": some[5], "answer_right_ending": i % 2 + 1},
        "trec": {"text": f"What is {some[0]} ?", "coarse_label": i % 6},
        "truthful_qa": {"question": f"Is {some[0]} wet?", "mc1_targets": {"choices": some[:3], "labels": [0, 1, 0]}},
        "winogrande": {"sentence": f"The _ beat the {some[0]}.", "option1": some[1], "option2": some[2],
                       "answer": str(i % 2 + 1)},
        "wsc": {"text": f"The {some[0]} hit it.", "options": some[:2], "label": i % 2},
        "mmlu": {"question": f"Which is {some[0]}?", "choices": some[:4], "answer": i % 4},
        "gsm8k": {"question": f"{i} + 1?", "answer": f"{i + 1}\n#### {i + 1}"},
    }


directed = {"boolq", "cb", "snli", "copa", "cosmos_qa", "hellaswag", "math_qa", "multirc", "obqa", "piqa", "sciq", "siqa",
            "story_cloze", "trec", "winogrande", "wsc"}
out = {}
for name in made(0):
    code = module(f"hf.{name}")
    style = code.PromptFormat if hasattr(code, "PromptFormat") else None
    records = [made(i)[name] for i in range(5)]
    out[name] = {"records": records, "styles": {}}
    for kind in ("choice", "oe"):
        if name == "gsm8k" and kind == "choice":
            continue
        seeded = name not in ("mmlu", "gsm8k")
        rows = []
        for i, record in enumerate(records):
            text = code.format_sample(dict(record), style(kind), **({"with_query_label": True, "seed": 137 + i} if seeded else {}))
            rows.append(text.to_pydict())
        pool = [{k: v for k, v in row.items() if k not in ("output", "query_label")} for row in rows]
        labels = {"prompt_label": "High school us history"} if name == "mmlu" else {}
        prompt = code.format_sample_prompt(pool, format=style(kind), kshot=2, seed=138, **labels)
        for row in rows:
            lines = row["context"].split("\n")
            if kind == "oe" and name in directed:
                prompt = prompt.replace(row["context"], "\n".join(lines[1:-1] if name == "trec" else lines[1:]))
                row["context"] = "\n".join(lines[1:-1] if name == "trec" else lines[1:])
            if "query_label" in row:
                row["query_label"] = int(row["query_label"])
        out[name]["styles"][kind] = {"rows": rows, "prompt of row 1": prompt}
json.dump(out, sys.stdout)
