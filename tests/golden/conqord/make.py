"""Writes the Arrow folder beside this file as Hugging Face's datasets does (datasets 5, save_to_disk): two splits, two shards."""
import os

import datasets

TRAIN = [
    ("Which river runs through Geneva?", "The Rhône.", "The Po."),
    ("What is 7 x 8?", "56.", "54."),
    ("Who wrote Emma?", "Jane Austen.", "Emily Brontë."),
    ("Which planet is the largest?", "Jupiter.", "Mars."),
    ("Which metal is liquid at room temperature?", "Mercury.", "Iron."),
]
TEST = [("Which gas do plants breathe in?", "Carbon dioxide.", "Helium.")]


def record(question, right, wrong):
    prompt = f"\n\n### Human: {question}\n\n### Assistant:"
    return {
        "prompt": prompt,
        "chosen": f"{prompt} {right}\n\n### Confidence: 0.9.",
        "rejected": f"{prompt} {wrong}\n\n### Confidence: 0.9.",
    }


def split(rows):
    return datasets.Dataset.from_list([record(*row) for row in rows])


folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Anthropic", "hh-rlhf", "helpful-base_conf_half")
both = datasets.DatasetDict(train=split(TRAIN), test=split(TEST))
both.save_to_disk(folder, num_shards={"train": 2, "test": 1})
