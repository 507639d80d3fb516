"""Trains small heads with PyTorch in float64 and keeps what they say, for tests/elical-heads.test.ts.

  python make.py            # needs torch; writes heads.json beside itself
"""
import json
import math
from pathlib import Path

import torch

torch.set_default_dtype(torch.float64)
ROWS, WIDTH, STEPS, PEAK, DECAY, WARM = 7, 40, 12, 0.02, 0.1, 3


def number(i, scale=1.0):
    """Fixed values without structure, rounded so that float32 holds them well."""
    return round(math.sin(12.9898 * (i + 1)) * scale, 4)


features = torch.tensor([[number(WIDTH * i + j) for j in range(WIDTH)] for i in range(ROWS)])
targets = torch.tensor([(number(1000 + i) + 1) / 2 for i in range(ROWS)])
out = {"width": WIDTH, "states": features.flatten().tolist(), "targets": targets.tolist(), "cases": []}
for kind, widths in (("linear", []), ("mlp", [WIDTH // 2, WIDTH // 4])):
    sizes = [WIDTH, *widths, 1]
    layers, start, at = [], [], 2000
    for k, (a, b) in enumerate(zip(sizes, sizes[1:])):
        layer = torch.nn.Linear(a, b)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[number(at + a * o + i, 0.4) for i in range(a)] for o in range(b)]))
            layer.bias.copy_(torch.tensor([number(at + 900 + o, 0.4) for o in range(b)]))
        # Names as torch.nn.Sequential gives them, ReLU between; a linear head has no number.
        name = "confidence." if kind == "linear" else f"confidence.{2 * k}."
        for part, tensor in (("weight", layer.weight), ("bias", layer.bias)):
            start.append({"name": name + part, "shape": list(tensor.shape), "data": tensor.flatten().tolist()})
        layers += [layer, torch.nn.ReLU()]
        at += 1000
    model = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=DECAY)
    for step in range(STEPS):
        rate = PEAK * (step + 1) / WARM if step < WARM else PEAK * (STEPS - step) / (STEPS - WARM)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = ((torch.sigmoid(model(features)[:, 0]) - targets) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    out["cases"].append({"kind": kind, "start": start, "logits": model(features)[:, 0].tolist()})
Path(__file__).with_name("heads.json").write_text(json.dumps(out))
