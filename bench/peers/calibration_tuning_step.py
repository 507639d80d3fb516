"""One training step of each of calibration-tuning's forms on a small model in PyTorch + PEFT: losses and every gradient, as the
published trainers compute them (llm/trainer/calibration_tune.py, classification_tune.py). No speed.

  python calibration_tuning_step.py --out tests/golden/calibration-tuning-step

Writes the model (a random llama with a tokenizer of words), two adapters as PEFT saves them, the head, every gradient
(tensors.safetensors), and step.json: rows of tokens and labels, the features of the probe, and what comes of each.
"""
import argparse, json, os
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from tiny_llama import with_adapter, write_base

ap = argparse.ArgumentParser()
ap.add_argument("--out", required=True)
a = ap.parse_args()

KAPPA, VOCABULARY, CHOICES = 0.7, 53, [17, 29]  # the tokens of i and ii
QUESTIONS, ANSWERS, TARGETS, SUFFIX = [5, 4, 6, 3], [2, 3, 1, 2], [2, 1, 3, 4], 4  # tokens
LABELS = [1, 0, 0, 1]

config = write_base(a.out, VOCABULARY, seed=11)
tuned, reference = [
    with_adapter(a.out, name, 0.2, ["q_proj", "v_proj"], r=3, lora_alpha=12, task_type="CAUSAL_LM")
    for name in ("adapter", "reference")]
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
