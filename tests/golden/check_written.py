"""Do the programs that others use read what `credence merge`, `export` and `convert` write?

    python tests/golden/check_written.py FIXTURES        (torch, transformers, peft, gguf, safetensors; after `npm run build`)

FIXTURES is a folder of tiny models, one folder a family with config.json, model.safetensors and a PEFT adapter. For each:
a merged model in shards and a converted one load in transformers and give the logits of the model they were made of; an
exported adapter loads in PEFT under both spellings of its keys; every tensor of a GGUF, as gguf-py decodes it, is the
source's within the rounding of its type. Prints one line a check; exit status 1 if a bound is exceeded.
"""
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

ROOT = Path(__file__).resolve().parents[2]
failed = 0


def credence(*arguments):
    done = subprocess.run(
        ["node", ROOT / "dist/cli/bin.js", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"credence {' '.join(map(str, arguments))}: {done.stderr}")


def report(family, what, error, bound):
    global failed
    failed += not error <= bound
    print(f"{family:8} {what:36} {error:9.2e} {bound:9.1e}  {'ok' if error <= bound else 'EXCEEDED'}")


def model_of(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def largest(a, b):
    """Largest difference in units of b's largest entry."""
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
def check(family, fixture, work):
    source = work / "source"
    shutil.copytree(fixture, source, ignore=shutil.ignore_patterns("adapter"))
    for file in (ROOT / "tests/golden/text/tokenizer").iterdir():
        shutil.copy(file, source)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    tokens = torch.randint(vocabulary, (2, 37), generator=torch.Generator().manual_seed(1))
    base = model_of(source)
    plain = base(tokens).logits
    adapted = PeftModel.from_pretrained(base, fixture / "adapter").eval()(tokens).logits

    credence("merge", "--model", source, "--adapter", fixture / "adapter", "--out", work / "merged", "--type", "f32",
             "--shard-size", "100KB")
    shards = len(list((work / "merged").glob("*.safetensors")))
    report(family, f"merged, {shards} shards: logits", largest(model_of(work / "merged")(tokens).logits, adapted), 1e-5)
    for dtype, bound in [("f32", 1e-6), ("f16", 5e-3), ("bf16", 5e-2)]:
        credence("convert", source, "--out", work / dtype, "--type", dtype)
        report(family, f"converted, {dtype}: logits", largest(model_of(work / dtype)(tokens).logits, plain), bound)

    for keys, read in [("peft", AutoModelForCausalLM), ("bare", AutoModel)]:
        credence("export", "--model", source, "--adapter", fixture / "adapter", "--out", work / keys, "--keys", keys)
        model = PeftModel.from_pretrained(read.from_pretrained(source, dtype=torch.float32), work / keys).eval()
        hidden = model(tokens, output_hidden_states=True)
        states = hidden.hidden_states[-1] if keys == "peft" else hidden.last_hidden_state
        expected = PeftModel.from_pretrained(model_of(source), fixture / "adapter").eval()
        expected = expected(tokens, output_hidden_states=True).hidden_states[-1]
        report(family, f"adapter, {keys} keys, in PEFT: states", largest(states, expected), 1e-6)

    weights = {key: value for file in source.glob("model*.safetensors") for key, value in load_file(file).items()}
    weights = {key: value.float().numpy() for key, value in weights.items()}
    for dtype, bound in [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 0.5 / 127 + 2**-11), ("q4_0", 1 / 8 + 2**-10)]:
        if dtype.startswith("q") and any(w.ndim == 2 and w.shape[1] % 32 for w in weights.values()):
            continue
        credence("convert", source, "--out", work / f"{dtype}.gguf", "--type", dtype)
        reader = gguf.GGUFReader(work / f"{dtype}.gguf")
        name = {"f16": "F16", "bf16": "BF16", "q8_0": "Q8_0", "q4_0": "Q4_0"}[dtype]
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[reader.fields["general.architecture"].contents().upper()], 64)
        found = {tensor.name: tensor for tensor in reader.tensors}
        worst, compared = 0.0, 0
        for key, value in weights.items():
            tensor = found[names.get_name(key, try_suffixes=(".weight", ".bias"))]
            read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(value.shape)
            if family.startswith("llama") or family in ("mistral", "smollm2"):
                value = undo_rotary_order(key, value, json.loads((source / "config.json").read_text()))
            if value.ndim == 2:
                output = key in ("lm_head.weight", "model.embed_tokens.weight")
                assert tensor.tensor_type.name in (name, "Q8_0" if output else name), f"{key} is {tensor.tensor_type.name}"
            # A block of 32 shares a scale: its error is measured by the block's largest entry. Below 2^-14 float16 has steps
            # of one size.
            block = 32 if value.ndim == 2 and dtype.startswith("q") else 1
            a, b = read.reshape(-1, block), value.reshape(-1, block)
            scale = np.abs(b).max(axis=1, keepdims=True)
            worst = max(worst, float((np.abs(a - b) / np.maximum(scale, 2**-14)).max()))
            compared += 1
        assert compared == len(weights)
        report(family, f"gguf, {dtype}: tensors in gguf-py", worst, bound)


def undo_rotary_order(key, value, config):
    """GGUF's llama stores q and k so that a rotary pair lies side by side."""
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, count in heads.items():
        if name in key:
            size = value.shape[0] // count
            return value.reshape(count, 2, size // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
    return value


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for family in ["llama", "llama3", "mistral", "qwen2", "qwen3", "smollm2"]:
        with tempfile.TemporaryDirectory() as work:
            check(family, Path(sys.argv[1]) / family, Path(work))
    sys.exit(1 if failed else 0)
