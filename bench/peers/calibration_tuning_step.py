"""One training step of each of calibration-tuning's forms on a small model in PyTorch + PEFT: losses and every gradient, as the
published trainers compute them (llm/trainer/calibration_tune.py, classification_tune.py). No speed.

  python calibration_tuning_step.py --out tests/golden/calibration-tuning-step

Writes the model (a random llama with a tokenizer of words), two adapters as PEFT saves them, the head, every gradient
(tensors.safetensors), and step.json: rows of tokens and labels, the features of the probe, and what comes of each.
"""
import argparse, json, os, shutil
import torch
import torch.nn.functional as F
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

ap = argparse.ArgumentParser()
ap.add_argument("--out", required=True)
a = ap.parse_args()

KAPPA, VOCABULARY, CHOICES = 0.7, 53, [17, 29]  # the tokens of i and ii
QUESTIONS, ANSWERS, TARGETS, SUFFIX = [5, 4, 6, 3], [2, 3, 1, 2], [2, 1, 3, 4], 4  # tokens
LABELS = [1, 0, 0, 1]

torch.manual_seed(11)
torch.set_num_threads(1)
if os.path.exists(a.out):
    shutil.rmtree(a.out)
config = transformers.LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2)
base = transformers.LlamaForCausalLM(config).float()
with torch.no_grad():
    for _, p in base.named_parameters():
        p.copy_(1 + 0.1 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * 1.4 / p.shape[-1] ** 0.5)
base.save_pretrained(a.out)
words = {f"w{i}": i for i in range(VOCABULARY)}
json.dump({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
           "decoder": None, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}},
          open(os.path.join(a.out, "tokenizer.json"), "w"))
json.dump({"bos_token": "w1", "eos_token": "w2", "unk_token": "w0"}, open(os.path.join(a.out, "tokenizer_config.json"), "w"))


def with_adapter(name):
    """The base with an adapter that does something, which is saved. Dropout 0: masks are nobody else's."""
    fresh = transformers.LlamaForCausalLM.from_pretrained(a.out, dtype=torch.float32)
    model = get_peft_model(fresh, LoraConfig(r=3, lora_alpha=12, lora_dropout=0.0, bias="none",
                                             target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.copy_(0.2 * torch.randn_like(p))
    folder = os.path.join(a.out, name)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    saved = json.load(open(path))
    saved["base_model_name_or_path"] = ""
    json.dump(saved, open(path, "w"), indent=2, sort_keys=True)
    return model


tuned, reference = with_adapter("adapter"), with_adapter("reference")
draw = lambda n: torch.randint(3, VOCABULARY, (n,))
suffix = draw(SUFFIX)
questions, answers, targets = [draw(n) for n in QUESTIONS], [draw(n) for n in ANSWERS], [draw(n) for n in TARGETS]
rows, labels = range(len(LABELS)), torch.tensor(LABELS)
tensors, told = {}, {}


def gradients(name, model, loss):
    model.zero_grad()
    loss.backward()
    told[name] = loss.item()
    for key, p in model.named_parameters():
        if p.requires_grad:
            tensors[f"{name}.{key.replace('.default', '')}"] = p.grad.clone()


def query_loss():
    logits = torch.stack([tuned(torch.cat([questions[b], answers[b], suffix])[None]).logits[0, -1, CHOICES] for b in rows])
    return F.cross_entropy(logits, labels)


def divergence(kind, other):
    """Summed over target tokens, mean over rows; published names. (torch's Categorical, without its clamp at 1e-7.)"""
    total = 0
    for b in rows:
        text = torch.cat([questions[b], targets[b]])[None]
        at = slice(QUESTIONS[b] - 1, -1)
        log_p = F.log_softmax(tuned(text).logits[0, at], -1)
        with torch.no_grad():
            log_q = F.log_softmax(other(text)[0, at], -1)
        kl = lambda x, y: (x.exp() * (x - y)).sum()
        if kind == "reverse_kl":
            total = total + kl(log_p, log_q)
        elif kind == "forward_kl":
            total = total + kl(log_q, log_p)
        else:
            log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0))
            total = total + 0.5 * kl(log_p, log_m) + 0.5 * kl(log_q, log_m)
    return total / len(LABELS)


def of_base(text):
    with tuned.disable_adapter():
        return tuned(text).logits


for kind in ("jsd", "reverse_kl", "forward_kl"):
    gradients(f"prompt.{kind}", tuned, query_loss() + KAPPA * divergence(kind, of_base))
gradients("prompt.reference", tuned, query_loss() + KAPPA * divergence("jsd", lambda text: reference(text).logits))

head = torch.nn.Sequential(
    torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Linear(256, 128), torch.nn.ReLU(),
    torch.nn.Linear(128, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
for layer in head:
    if isinstance(layer, torch.nn.Linear):
        torch.nn.init.xavier_normal_(layer.weight)


def features(b, place):
    text = torch.cat([questions[b], answers[b]])[None]
    hidden = tuned(text, output_hidden_states=True).hidden_states[-1][0]
    return hidden[-1] if place == "last" else hidden[QUESTIONS[b]:].mean(0)


for name, p in head.named_parameters():
    tensors[f"head.{name}"] = p.detach().clone()
both = torch.nn.ModuleDict({"model": tuned, "head": head})
for place in ("last", "mean"):
    read = torch.stack([features(b, place) for b in rows])
    gradients(f"classifier.{place}", both, F.cross_entropy(head(read), labels))
frozen = torch.stack([features(b, "last") for b in rows]).detach()
tensors["features"] = frozen.clone()
gradients("probe", head, F.cross_entropy(head(frozen), labels))

log_t = torch.tensor(0.3, requires_grad=True)
with torch.no_grad():
    logits = head(frozen) * 3
loss = F.cross_entropy(logits / log_t.exp(), labels)
loss.backward()
told["temperature"] = loss.item()
save_file(tensors, os.path.join(a.out, "tensors.safetensors"))
lists = lambda all: [one.tolist() for one in all]
json.dump({"kappa": KAPPA, "choices": CHOICES, "labels": LABELS, "suffix": suffix.tolist(), "questions": lists(questions),
           "answers": lists(answers), "targets": lists(targets), "losses": told,
           "temperature": {"log": 0.3, "logits": logits.flatten().tolist(), "loss": loss.item(), "gradient": log_t.grad.item()},
           "made_by": f"torch {torch.__version__}, transformers {transformers.__version__}"},
          open(os.path.join(a.out, "step.json"), "w"))
