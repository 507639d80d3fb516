#!/usr/bin/env python3
"""Golden folders of odd shapes: what PyTorch, transformers and PEFT compute, in the format of the shared fixtures.

    python make_odd.py --fixtures ../shared/fixtures --out tests/golden/odd

Reference arithmetic, subjects and file layout are those of the fixtures' make.py, which is imported; here stand the models, what
their files have that the fixtures' do not, and yardsticks in bfloat16 for more quantities.
"""
import argparse
import importlib.util
import math
import shutil
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

SEED = 977
LENGTHS, STARTS = [1, 8, 1, 15], [1, 3, 1, 4]

MODELS = [
    # Multiples of nothing; float16 in three shards; the head stored a second time under tied embeddings; rsLoRA with alpha no
    # multiple of r, on one layer only.
    dict(name="llama-tied", type="llama", layers=2, hidden=30, heads=3, kv=1, inter=37, vocab=131, theta=1e4, eps=1e-5,
         dtype="float16", style="4", shards=3, tied=True, stored_head=True, extra=dict(head_dim=None),
         r=3, alpha=7, rslora=True, targets=["q_proj", "down_proj"], on_layers=[1]),
    # Every bias a llama may have, linear rotary scaling, an adapter whose list names one layer's matrix by its path.
    dict(name="llama-biases", type="llama", layers=2, hidden=28, heads=2, kv=2, inter=23, vocab=67, theta=1e4, eps=1e-6,
         dtype="float32", style="4", scaling=dict(type="linear", factor=2.5), extra=dict(attention_bias=True, mlp_bias=True),
         r=5, alpha=3, targets=["k_proj", "o_proj", "layers.1.mlp.gate_proj"]),
    # A window in every layer, head size of its own, bfloat16, no key for the tied head; all linear layers adapted.
    dict(name="mistral-window", type="mistral", layers=2, hidden=26, heads=3, kv=3, head_dim=18, inter=29, vocab=97, theta=3e3,
         eps=1e-5, dtype="bfloat16", style="5", window=5, extra=dict(tie_word_embeddings=None), r=2, alpha=5, targets="all-linear"),
    # Windows from layer max_window_layers on; a vocabulary wider than what is used, tied and stored once; a pattern as target.
    dict(name="qwen2-windows", type="qwen2", layers=3, hidden=36, heads=6, kv=2, inter=41, vocab=120, used=83, theta=1e6, eps=1e-6,
         dtype="float32", style="4", tied=True, window=4, extra=dict(use_sliding_window=True, max_window_layers=1),
         r=4, alpha=10, targets=r".*layers\.[12]\.(self_attn\.[qv]_proj|mlp\.up_proj)"),
    # layer_types of transformers 5; biases beside q/k norms; a stored head that differs from the embedding it is said to be.
    dict(name="qwen3-layers", type="qwen3", layers=3, hidden=34, heads=2, kv=1, head_dim=14, inter=31, vocab=101, theta=1e5, eps=1e-6,
         dtype="float32", style="5", tied=True, other_head=True, window=3,
         extra=dict(attention_bias=True, use_sliding_window=True, max_window_layers=28,
                    layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
         r=1, alpha=2.5, targets=["v_proj", "gate_proj"]),
]


def load_make(fixtures):
    spec = importlib.util.spec_from_file_location("make", fixtures / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extend(make):
    """Replaces what make.py does for its own models by what these need."""
    plain_tensors, plain_inv_freq = make.base_tensors, make.exact_inv_freq

    def base_tensors(m, rng):
        tensors, extra = plain_tensors(m, rng), m.get("extra", {})
        h, d, f = m["hidden"], make.head_dim(m), m["inter"]
        widths = {}
        if extra.get("attention_bias"):
            widths |= {"self_attn.q_proj": m["heads"] * d, "self_attn.k_proj": m["kv"] * d, "self_attn.v_proj": m["kv"] * d,
                       "self_attn.o_proj": h}
        if extra.get("mlp_bias"):
            widths |= {"mlp.gate_proj": f, "mlp.up_proj": f, "mlp.down_proj": h}
        dtype = getattr(torch, m["dtype"])
        for i in range(m["layers"]):
            for name, width in widths.items():
                tensors[f"model.layers.{i}.{name}.bias"] = make.normal(rng, width, std=0.4).to(dtype)
        if m.get("other_head"):
            tensors["lm_head.weight"] = make.normal(rng, m["vocab"], h, std=0.3).to(dtype)
        return tensors

    def inv_freq(config):
        rope = config.rope_parameters
        return plain_inv_freq(config) / (rope["factor"] if rope["rope_type"] == "linear" else 1)

    def write_adapter(folder, m, rng):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model = get_peft_model(model, LoraConfig(
            task_type="CAUSAL_LM", r=m["r"], lora_alpha=m["alpha"], target_modules=m["targets"], lora_dropout=0.0,
            use_rslora=m.get("rslora", False), layers_to_transform=m.get("on_layers")))
        for name, p in sorted((n, p) for n, p in model.named_parameters() if "lora_" in n):
            p.data.copy_(make.normal(rng, *p.shape, std=0.15 if "lora_A" in name else 0.1))
        model.peft_config["default"].base_model_name_or_path = f"credence-odd/{m['name']}"
        model.save_pretrained(folder / "adapter", save_embedding_layers=False)
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        config = make.load_json(folder / "adapter" / "adapter_config.json")
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()
        make.save_json(folder / "adapter" / "adapter_config.json", config)

    make.base_tensors, make.exact_inv_freq, make.write_adapter = base_tensors, inv_freq, write_adapter


def quantity(subject, key):
    """The engine's name for the quantity that a tensor belongs to; None: no yardstick."""
    if subject == "sampling":
        return None
    if key.startswith("final."):
        return "sft.final"
    if "grad." in key:
        return f"{subject}.{key[:key.index('grad.')]}grad"
    if subject == "heads":
        return f"heads.{key.split('.')[0]}.score"
    return f"{subject}.{key}"


def bfloat16_errors(make, folder, batch):
    """How far stock transformers in bfloat16 is from the stored values, at least one step of bfloat16 (2^-8): the luck of a few
    numbers is no bound."""
    ref, got, expected = make.Reference(folder, torch.bfloat16), {}, {}
    for subject, function in make.SUBJECTS.items():
        inputs, stored, _ = make.read_subject(folder, subject)
        tensors, _ = function(ref, batch, inputs)
        for key, value in stored.items():
            if name := quantity(subject, key):
                got.setdefault(name, []).append(tensors[key].detach().double().flatten())
                expected.setdefault(name, []).append(value.double().flatten())
    report = {}
    for name in got:
        g, e = torch.cat(got[name]), torch.cat(expected[name])
        rms, worst = (g - e).norm() / e.norm(), (g - e).abs().max() / e.abs().max()
        report[name] = {k: float(f"{max(v.item(), 2**-8):.3g}") for k, v in (("rms", rms), ("max", worst))}
    return report


def write_model(make, out, m):
    folder, name = out / m["name"], m["name"]
    used = m.get("used", m["vocab"])
    make.write_base(folder, m, make.generator(SEED, name, "base"))
    make.write_adapter(folder, m, make.generator(SEED, name, "adapter"))
    batch = make.Batch.draw(make.generator(SEED, name, "batch"), LENGTHS, STARTS, used)
    make.save_json(folder / "batch.json", batch.json())
    ref = make.Reference(folder)
    inputs = make.draw_inputs(m, batch, make.generator(SEED, name, "inputs"))
    inputs["sampling"] = make.draw_sampling_prompt(ref, make.generator(SEED, name, "sampling"), used)
    settings = make.ADAMW | dict(steps=make.STEPS, warmup_steps=make.WARMUP, max_grad_norm=make.CLIP, schedule="cosine to 0")
    for subject, function in make.SUBJECTS.items():
        given = inputs.get(subject, {})
        make.write_subject(folder, subject, given, *function(ref, batch, given), dict(settings=settings) if subject == "sft" else None)
    make.save_json(folder / "bfloat16.json", bfloat16_errors(make, folder, batch))

    rng, cases = make.generator(SEED, name, "prompts"), []
    for length in (1, 9):
        while True:
            prompt = rng.integers(0, used, length).tolist()
            base, lead_b = make.greedy(ref, prompt, adapter=False)
            tuned, lead_a = make.greedy(ref, prompt, adapter=True)
            if min(lead_a, lead_b) > 0.01 and base != tuned:
                break
        cases.append(dict(prompt=prompt, base=base, adapter=tuned, smallest_lead=min(lead_a, lead_b)))
    make.save_json(folder / "greedy.json", dict(max_new_tokens=12, eos="ignored", cases=cases))

    key = sorted(k for k in ref.params if "lora_A" in k)[0]
    layer = ref.lm.get_submodule(key.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
    merged = layer.base_layer.weight + layer.scaling["default"] * (ref.params[key.replace("lora_A", "lora_B")] @ ref.params[key])
    make.save_tensors(folder / "merged.safetensors",
                      {key.removeprefix("base_model.model.").replace("lora_A.weight", "weight"): merged})
    make.save_json(folder / "merged.json", dict(scaling=layer.scaling["default"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--fixtures", type=Path, default=Path("../shared/fixtures"), help="folder of make.py")
    parser.add_argument("--out", type=Path, default=Path("tests/golden/odd"))
    args = parser.parse_args()
    make = load_make(args.fixtures)
    extend(make)
    for m in MODELS:
        shutil.rmtree(args.out / m["name"], ignore_errors=True)
        write_model(make, args.out, m)
        size = sum(p.stat().st_size for p in (args.out / m["name"]).rglob("*") if p.is_file())
        print(f"{m['name']}: {math.ceil(size / 1024)} KiB", flush=True)


if __name__ == "__main__":
    main()
