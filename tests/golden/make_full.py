#!/usr/bin/env python3
"""Adds to golden folders of make_odd.py what PyTorch gives when every weight is trained beside the adapter: full.safetensors with
the gradient of each, full.json with five steps of AdamW over parameter groups, and the yardstick in bfloat16.

    python make_full.py --fixtures ../shared/fixtures --out tests/golden/odd
"""
import argparse
import math
from pathlib import Path

import torch

from make_odd import extend, load_make

# One model with a tied head, one with every bias, one with norms of q and k and a head of its own: what has gradients of its own.
FOLDERS = ["llama-tied", "llama-biases", "qwen3-layers"]
SETTINGS = dict(lr=2e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, steps=5, max_grad_norm=1.0)
GROUPS = dict(embeddings=dict(lr=1e-3, weight_decay=0.05), norms=dict(lr=4e-3, weight_decay=0.0),
              biases=dict(lr=5e-3, weight_decay=0.0), adapter=dict(lr=1e-2, weight_decay=0.2))


def base_name(name):
    """Of a parameter inside PEFT's wrapper, as the model's file calls it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def group_of(name):
    if "lora_" in name:
        return "adapter"
    if "embed_tokens" in name:
        return "embeddings"
    if name.endswith("norm.weight"):
        return "norms"
    return "biases" if name.endswith(".bias") else "rest"


def parameters(make, ref):
    """All of them, each once: a tied head is the embedding."""
    out = {}
    for name, p in ref.model.named_parameters():
        p.requires_grad_()
        out[make.adapter_key(name) if "lora_" in name else base_name(name)] = p
    return out


def loss_of(make, ref, batch, weights):
    return -(weights * make.token_logprobs(batch, ref.rows(batch)[1])).sum() / weights.sum()


def gradients(make, ref, batch, weights):
    params = parameters(make, ref)
    loss = loss_of(make, ref, batch, weights.to(ref.dtype))
    return {k: g for k, g in zip(params, torch.autograd.grad(loss, list(params.values())))}


def write(make, folder):
    batch = make.load_json(folder / "batch.json")
    batch = make.Batch(batch["tokens"], batch["cu_seqlens"], batch["completion_starts"])
    weights = make.read_subject(folder, "sft")[0]["weights"]
    ref = make.Reference(folder)
    exact = gradients(make, ref, batch, weights)
    params, w = parameters(make, ref), weights.to(ref.dtype)
    groups = [dict(params=[p for k, p in params.items() if group_of(k) == name], **GROUPS.get(name, {}))
              for name in sorted({group_of(k) for k in params})]
    optimizer = torch.optim.AdamW(groups, **{k: SETTINGS[k] for k in ("lr", "betas", "eps", "weight_decay")})
    losses, norms = [], []
    for _ in range(SETTINGS["steps"]):
        optimizer.zero_grad()
        loss = loss_of(make, ref, batch, w)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(list(params.values()), SETTINGS["max_grad_norm"]).item())
        optimizer.step()
    with torch.no_grad():
        after = loss_of(make, ref, batch, w).item()
    make.write_subject(folder, "full", dict(weights=weights), {f"grad.{k}": g for k, g in exact.items()},
                       dict(losses=losses, grad_norms=norms, loss_after=after), dict(settings=SETTINGS | dict(groups=GROUPS)))

    stock = gradients(make, make.Reference(folder, torch.bfloat16), batch, weights)
    got, expected = (torch.cat([d[k].double().flatten() for k in exact]) for d in (stock, exact))
    rms, worst = (got - expected).norm() / expected.norm(), (got - expected).abs().max() / expected.abs().max()
    yardstick = make.load_json(folder / "bfloat16.json")
    yardstick["full.grad"] = {k: float(f"{max(v.item(), 2**-8):.3g}") for k, v in (("rms", rms), ("max", worst))}
    make.save_json(folder / "bfloat16.json", yardstick)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fixtures", type=Path, default=Path("../shared/fixtures"), help="folder of make.py")
    parser.add_argument("--out", type=Path, default=Path("tests/golden/odd"))
    args = parser.parse_args()
    make = load_make(args.fixtures)
    extend(make)
    for name in FOLDERS:
        write(make, args.out / name)
        size = sum((args.out / name / file).stat().st_size for file in ("full.safetensors", "full.json"))
        print(f"{name}: {math.ceil(size / 1024)} KiB", flush=True)


if __name__ == "__main__":
    main()
