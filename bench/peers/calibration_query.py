"""PyTorch + transformers + PEFT: whether answers are right, by two tokens behind each row (one JSON line).

  python calibration_query.py --model M.gguf --mode fp32|bf16 --batch 1|8|10 [--answers 10] [--prefix]

Rows are a question of 160 tokens and 40 of an answer with its query; a LoRA (r 8, alpha 32, q and v) is on. Only the last
position's logits are made. --prefix: the question's keys and values are made once and repeated for its answers.
"""
import argparse, os, time
import torch, transformers, peft
from common import load_model, peak_rss_mb, rates, emit

ap = argparse.ArgumentParser()
ap.add_argument("--model", default="")
ap.add_argument("--random", action="store_true")
ap.add_argument("--mode", default="fp32", choices=["fp32", "bf16"])
ap.add_argument("--batch", type=int, default=1, help="rows of a pass")
ap.add_argument("--answers", type=int, default=1, help="answers to each of 16 questions")
ap.add_argument("--prefix", action="store_true")
ap.add_argument("--steps", type=int, default=3)
ap.add_argument("--threads", type=int, default=0)
a = ap.parse_args()
if a.threads:
    torch.set_num_threads(a.threads)
from peft import LoraConfig, get_peft_model

torch.manual_seed(0)
model = load_model(a.model, torch.bfloat16 if a.mode == "bf16" else torch.float32, a.random)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=32, lora_dropout=0.0, task_type="CAUSAL_LM",
                                         target_modules=["q_proj", "v_proj"]), autocast_adapter_dtype=False).eval()
g = torch.Generator().manual_seed(1234)
vocabulary = model.config.vocab_size
questions = [torch.randint(13, vocabulary, (160,), generator=g) for _ in range(16)]
rests = [torch.stack([torch.randint(13, vocabulary, (40,), generator=g) for _ in range(a.answers)]) for _ in questions]
rows = torch.cat([torch.cat([q.expand(a.answers, -1), r], 1) for q, r in zip(questions, rests)])
choices = torch.tensor([11, 12])


def plain():
    out = [model(input_ids=rows[i:i + a.batch], logits_to_keep=1).logits[:, -1, choices] for i in range(0, len(rows), a.batch)]
    return torch.cat(out)


def prefixed():
    out = []
    for q, r in zip(questions, rests):
        cache = model(input_ids=q[None], use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(r))
        out.append(model(input_ids=r, past_key_values=cache, logits_to_keep=1).logits[:, -1, choices])
    return torch.cat(out)


run = prefixed if a.prefix else plain
seconds = []
with torch.inference_mode():
    for i in range(a.steps + 1):
        t = time.perf_counter()
        p = run().float().softmax(-1)[:, 1]
        if i:
            seconds.append(time.perf_counter() - t)
n = len(rows)
emit({"peer": "torch+transformers+peft", "mode": a.mode, "batch": a.batch, "answers": a.answers, "prefix": a.prefix, "rows": n,
      **rates(rows.numel(), seconds), "rows_per_s_best": round(n / min(seconds), 3),
      "rows_per_s_median": round(n / sorted(seconds)[len(seconds) // 2], 3), "p_first": float(p[0]), "peak_rss_mb": peak_rss_mb(),
      "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
      "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)})
