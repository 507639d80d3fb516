"""Writes probe.json: what the reference's probes say of small planted questions, with every choice of rows it made.

  python make_probe.py probe_reference.py > probe.json        (numpy; elical_reference.py and common.py beside it)
"""
import io, json, os, sys, tempfile
from contextlib import redirect_stdout
import numpy as np

path = os.path.abspath(sys.argv[1])
sys.path.insert(0, os.path.dirname(path))
rng = np.random.default_rng(11)
N, H, SEEDS, LABELS, DEPTHS = 100, 5, 1, (24, 60), (1, 2)

# A question is known or not; agreement and correctness follow from that, the states of depth 2 show it.
group = rng.integers(0, 25, N)
known = rng.normal(size=N)
words = ["Nairobi", "Mombasa", "Kisumu", "Eldoret"]
rows = []
for i in range(N):
    p = 1 / (1 + np.exp(-1.5 * known[i]))
    samples = [words[0] + " " + words[1] if rng.random() < .15 else words[0] if rng.random() < p else words[rng.integers(1, 4)] for _ in range(10)]
    rows.append({"group": f"g{group[i]:02d}", "kind": "ab"[i % 2], "question": "What is it?", "greedy": words[0], "samples": samples,
                 "correct": int(rng.random() < 1 / (1 + np.exp(-2 * known[i] - .3))), "logp": -float(rng.gamma(2) * 2), "ntok": int(rng.integers(1, 6))})
feats = {}
for name, signal in (("question", .4), ("mean", .9)):
    for depth in DEPTHS:
        feats[f"{name}_{depth}"] = np.round(np.outer(known * signal * (depth - .5), rng.normal(size=H)) + rng.normal(size=(N, H)) + 3, 3)

folder = tempfile.mkdtemp()
np.savez(f"{folder}/f.npz", **feats)
json.dump({"train": rows[:70], "test": rows[70:]}, open(f"{folder}/a.json", "w"))
sys.argv = [path, "--model", "none", "--answers", f"{folder}/a.json", "--features", f"{folder}/f.npz", "--seeds", str(SEEDS), "--labels", ",".join(map(str, LABELS))]
source = open(path).read().replace("    table = {}\n", "    KEPT.update(scores=scores, chosen=chosen, fold=fold, agreement=agreement); table = {}\n")
kept = {}
orders, parts, seeded = [], [], np.random.default_rng


class Recorder:
    """Notes each permutation the reference draws: countries once, then by (seed, fold) and by seed."""
    def __init__(self, seed):
        self.seed, self.source = seed, seeded(seed)

    def permutation(self, x):
        out = self.source.permutation(x)
        if isinstance(self.seed, list):
            orders.append(np.array(out).tolist())
        elif not isinstance(x[0], str):
            parts.append([p.tolist() for p in np.array_split(out, 5)])
        return out


np.random.default_rng = Recorder
with redirect_stdout(io.StringIO()):
    exec(compile(source, path, "exec"), {"__name__": "reference", "__file__": path, "KEPT": kept})
countries = seeded(0).permutation(sorted({r["group"] for r in rows}))
inner = {str(c) for i, c in enumerate(countries) if i % 25 // 5 == 0}

# Orders: per fold, question probes, answer probes, then the baselines: the same (seed, fold) gives the same order each time.
folds = []
for f in range(5):
    test, train = np.where(kept["fold"] == f)[0], np.where(kept["fold"] != f)[0]
    per = 2 * SEEDS + SEEDS
    folds.append({"test": test.tolist(), "train": train.tolist(), "inner": [int(i) for i in train if rows[i]["group"] in inner],
                  "order": orders[f * per], "parts": [{str(n): parts[(f * 2 + k) * len(LABELS) + j] for j, n in enumerate(LABELS)} for k in range(2)]})
print(json.dumps({"labels": LABELS, "depths": DEPTHS, "width": H, "kinds": [r["kind"] for r in rows], "correct": [r["correct"] for r in rows],
                  "logp": [r["logp"] for r in rows], "ntok": [r["ntok"] for r in rows], "agreement": kept["agreement"].tolist(),
                  "features": {k.replace("mean", "answer"): v.ravel().tolist() for k, v in feats.items()}, "folds": folds,
                  "chosen": [[f, family, name.replace("mean", "answer"), penalty] for f, family, name, penalty in kept["chosen"]],
                  "expected": {k: np.round(v[0], 10).tolist() for k, v in kept["scores"].items()}}))
