"""One PPO step of SaySelf on a small model in PyTorch: scores by running moments, masked rewards and advantages, whitening over the
masked tokens, both losses of the one network and every gradient, as TRL 0.7.10 computes them. No speed.

  python sayself_step.py --out tests/golden/sayself-step

Writes the model (a random llama with a tokenizer of words), the adapter as PEFT saves it, the critic's head and every gradient
(tensors.safetensors), and step.json: prompts, responses, what was scored and sampled, and what comes of it.
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

KL, GAMMA, LAMBDA, CLIP, VALUE_CLIP, VALUE_COEFFICIENT = 0.2, 1.0, 0.95, 0.2, 0.2, 0.1
VOCABULARY = 53
PROMPTS, ANSWERS = [5, 1, 11, 3], [4, 9, 5, 6]  # tokens
MASKED = [2, 3, 1, 6]  # of each response so many at the end are learnt from: the last states no confidence
BEFORE = [0.98, -0.62, 0.5, 1.0, -1.0]  # rewards of a step before this one
REWARDS = [0.82, -0.62, 0.98, -1.0]

config = write_base(a.out, VOCABULARY, seed=11)
policy = with_adapter(a.out, "policy", 0.6, r=4, lora_alpha=1)
head = torch.nn.Linear(config.hidden_size, 1)
sequences = [torch.randint(3, VOCABULARY, (p + n,)) for p, n in zip(PROMPTS, ANSWERS)]
masks = [torch.tensor([0.0] * (n - m) + [1.0] * m) for n, m in zip(ANSWERS, MASKED)]


def read(b):
    """Log-probabilities of the response's tokens, and what the critic says before each: one pass of the one network."""
    out = policy(sequences[b][None], output_hidden_states=True)
    rows = F.log_softmax(out.logits[0, :-1], -1)
    logprobs = rows.gather(1, sequences[b][1:, None])[:, 0][PROMPTS[b] - 1:]
    return logprobs, head(out.hidden_states[-1][0])[:-1, 0][PROMPTS[b] - 1:]


batch = range(len(sequences))
with torch.no_grad():
    # The policy that sampled, and its critic, have moved a little since: some ratios and values are clipped.
    both = [read(b) for b in batch]
    old = [logprobs + 0.25 * torch.randn(len(logprobs)) for logprobs, _ in both]
    old_values = [values + 0.3 * torch.randn(len(values)) for _, values in both]
    with policy.disable_adapter():
        reference = [read(b)[0] for b in batch]

# TRL's running moments: two batches merged by their counts, the deviation unbiased, float32's epsilon added to it.
mean, var, std, count = 0.0, 1.0, 1.0, 1e-24
for some in (BEFORE, REWARDS):
    x = torch.tensor(some, dtype=torch.float64)
    n, m, v = len(some), x.mean().item(), x.var(unbiased=False).item()
    delta, total = m - mean, count + n
    squares = v * n + var * count + delta ** 2 * count * n / total
    mean, var = mean + delta * n / total, squares / total
    std, count = (var * total / (total - 1)) ** 0.5, total
scores = [(r - mean) / (std + torch.finfo(torch.float32).eps) for r in REWARDS]

advantages, returns, kl = [], [], []
for b in batch:
    rewards = -KL * (old[b] - reference[b])
    kl.append(((old[b] - reference[b]) * masks[b]).sum())
    rewards[-1] += scores[b]
    rewards, values = rewards * masks[b], old_values[b] * masks[b]
    running, own = torch.tensor(0.0), []
    for t in reversed(range(ANSWERS[b])):
        following = values[t + 1] if t + 1 < ANSWERS[b] else 0.0
        running = rewards[t] + GAMMA * following - values[t] + GAMMA * LAMBDA * running
        own.insert(0, running)
    advantages.append(torch.stack(own))
    returns.append(advantages[b] + values)

mask = torch.cat(masks)
tokens = mask.sum()
flat = torch.cat(advantages)
average = (flat * mask).sum() / tokens
spread = ((flat - average) ** 2 * mask).sum() / (tokens - 1)
whitened = [(own - average) * torch.rsqrt(spread + 1e-8) for own in advantages]

now = [read(b) for b in batch]
ratio = [(now[b][0] - old[b]).exp() for b in batch]
policy_loss = sum((torch.maximum(-whitened[b] * ratio[b], -whitened[b] * ratio[b].clamp(1 - CLIP, 1 + CLIP)) * masks[b]).sum()
                  for b in batch) / tokens
value_loss = 0.5 * sum((torch.maximum(
    (now[b][1] - returns[b]) ** 2,
    (torch.clamp(now[b][1], old_values[b] - VALUE_CLIP, old_values[b] + VALUE_CLIP) - returns[b]) ** 2) * masks[b]).sum()
    for b in batch) / tokens
(policy_loss + VALUE_COEFFICIENT * value_loss).backward()

tensors = {"value.weight": head.weight.detach().clone(), "value.bias": head.bias.detach().clone(),
           "gradient.value.weight": head.weight.grad.clone(), "gradient.value.bias": head.bias.grad.clone()}
for key, p in policy.named_parameters():
    if p.requires_grad:
        tensors[f"gradient.{key.replace('.default', '')}"] = p.grad.clone()
save_file(tensors, os.path.join(a.out, "tensors.safetensors"))
clipped = sum((((x - 1).abs() > CLIP) * m).sum().item() for x, m in zip(ratio, masks))
assert 0 < clipped < tokens, clipped
lists = lambda rows: [row.tolist() for row in rows]
json.dump(
    {"prompts": [s[:p].tolist() for s, p in zip(sequences, PROMPTS)], "answers": [s[p:].tolist() for s, p in zip(sequences, PROMPTS)],
     "masks": lists(masks), "before": BEFORE, "rewards": REWARDS, "kl": KL, "scores": scores,
     "oldLogprobs": lists(old), "oldValues": lists(old_values), "reference": lists(reference),
     "advantages": lists([own * m for own, m in zip(whitened, masks)]), "returns": lists([own * m for own, m in zip(returns, masks)]),
     "klOfCompletion": (sum(kl) / len(kl)).item(), "outside": clipped / tokens.item(),
     "policyLoss": policy_loss.item(), "valueLoss": value_loss.item(),
     "made_by": f"torch {torch.__version__}, transformers {transformers.__version__}"},
    open(os.path.join(a.out, "step.json"), "w"))
