"""Draws of NumPy's and Python's generators, which src/data/random.ts repeats. python3 make.py > vectors.json"""
import json
import random
import sys

import numpy as np


def numbers(values):
    return [v.item() if hasattr(v, "item") else v for v in values]


def generator():
    out = []
    for seed, n in [(137, 7), (138, 100), (0, 1), (2**40 + 3, 20), (137, 70000)]:
        order = numbers(np.random.default_rng(seed).permutation(n))
        out.append({"seed": seed, "n": n, "head": order[:10], "sum": sum(i * v for i, v in enumerate(order)) % 2**31})
    return out


def generator_choice():
    out = []
    for seed, n, size, replace in [
        (137, 50, 12, True),
        (5, 20000, 8, True),
        (5, 1, 3, True),
        (137, 50, 12, False),
        (9, 6, 6, False),
        (137, 20000, 300, False),
        (137, 20000, 401, False),
        (2, 10001, 200, False),
    ]:
        drawn = numbers(np.random.default_rng(seed).choice(n, size=size, replace=replace))
        out.append({"seed": seed, "n": n, "size": size, "replace": replace, "head": drawn[:12],
                    "sum": sum((i + 1) * v for i, v in enumerate(drawn))})
    return out


def binomial():
    cases = [(137, 1, 0.5, 40), (138, 1, 0.9, 20), (3, 20, 0.3, 20), (4, 100, 0.8, 10), (4, 5, 0.0, 3), (4, 5, 1.0, 3)]
    return [{"seed": s, "n": n, "p": p, "drawn": numbers(np.random.default_rng(s).binomial(n, p, size=k))}
            for s, n, p, k in cases]


def one_generator():
    """Draws of different kinds from one generator: half a draw may be left over from the last."""
    rng = np.random.default_rng(137)
    return [numbers(rng.choice(10, size=3)), rng.random(), numbers(rng.permutation(6)), rng.binomial(1, 0.5), rng.random(),
            numbers(rng.choice(9, size=3, replace=False))]


def older_choice():
    out = []
    for seed, n, size, replace in [(137, 50, 12, True), (137, 50, 12, False), (1, 2000, 20, True), (1, 2000, 20, False)]:
        np.random.seed(seed)
        out.append({"seed": seed, "n": n, "size": size, "replace": replace,
                    "drawn": numbers(np.random.choice(n, size=size, replace=replace))})
    return out


def python():
    out = []
    for seed, n, k in [(137, 30, 5), (137, 1000, 10), (42, 22, 6), (2**70, 200, 50)]:
        source = random.Random(seed)
        drawn = source.sample(range(n), k)
        items = list(range(12))
        source.shuffle(items)
        out.append({"seed": str(seed), "n": n, "sample": drawn, "shuffled": items})
    return out


json.dump({"numpy": np.__version__, "python": sys.version.split()[0], "permutation": generator(),
           "choice": generator_choice(), "binomial": binomial(), "mixed": one_generator(),
           "older choice": older_choice(), "python draws": python()}, sys.stdout)
