"""One PPO step of CONQORD on a small model in PyTorch: rewards with the order-preserving term, advantages, both losses and every
gradient, as the published trainer computes them (constants of its ppo_trainer.py). No speed.

  python conqord_step.py --out tests/golden/conqord-step

Writes the model (a random llama with a tokenizer of words), the adapters of actor and critic as PEFT saves them, the critic's head
and every gradient (tensors.safetensors), and step.json: prompts, completions, what was scored and sampled, and what comes of it.
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

KL, ALPHA, REWARD_CLIP, GAMMA, LAMBDA, CLIP, VALUE_CLIP = 0.1, 0.4, 5.0, 1.0, 0.95, 0.2, 0.2
VOCABULARY = 53
PROMPTS, ANSWERS = [5, 1, 11, 3], [4, 9, 1, 6]  # tokens
QUALITY, CONFIDENCE = [1.2, -0.3, 0.5, -2.0], [0.9, 0.9, 0.2, 0.1]  # what the reward model said, what was stated

config = write_base(a.out, VOCABULARY, seed=7)
actor, critic = [with_adapter(a.out, name, 0.15, r=3, lora_alpha=6) for name in ("actor", "critic")]
head = torch.nn.Linear(config.hidden_size, 1, bias=False)
sequences = [torch.randint(3, VOCABULARY, (p + n,)) for p, n in zip(PROMPTS, ANSWERS)]


def logprobs(model, b):
    """Of the answer's tokens."""
    rows = F.log_softmax(model(sequences[b][None]).logits[0, :-1], -1)
    return rows.gather(1, sequences[b][1:, None])[:, 0][PROMPTS[b] - 1:]


def values(b):
    """Before each of the answer's tokens."""
    hidden = critic(sequences[b][None], output_hidden_states=True).hidden_states[-1][0]
    return head(hidden)[:-1, 0][PROMPTS[b] - 1:]


batch = range(len(sequences))
with torch.no_grad():
    # The policy that sampled, and its critic, have moved a little since: some ratios and values are clipped.
    old = [logprobs(actor, b) + 0.25 * torch.randn(ANSWERS[b]) for b in batch]
    old_values = [values(b) + 0.3 * torch.randn(ANSWERS[b]) for b in batch]
    with actor.disable_adapter():
        reference = [logprobs(actor, b) for b in batch]

r, c = torch.tensor(QUALITY), torch.tensor(CONFIDENCE)
aligned = torch.stack([((r[i] - r) * (c[i] - c)).sum() for i in batch])
scores = (r + ALPHA * aligned).clamp(-REWARD_CLIP, REWARD_CLIP)

advantages, returns = [], []
for b in batch:
    rewards = -KL * (old[b] - reference[b])
    rewards[-1] += scores[b]
    running, own = torch.tensor(0.0), []
    for t in reversed(range(ANSWERS[b])):
        following = old_values[b][t + 1] if t + 1 < ANSWERS[b] else 0.0
        running = rewards[t] + GAMMA * following - old_values[b][t] + GAMMA * LAMBDA * running
        own.insert(0, running)
    advantages.append(torch.stack(own))
    returns.append(advantages[b] + old_values[b])

count = sum(ANSWERS)
new = [logprobs(actor, b) for b in batch]
ratio = [(new[b] - old[b]).exp() for b in batch]
actor_loss = sum(torch.maximum(-advantages[b] * ratio[b], -advantages[b] * ratio[b].clamp(1 - CLIP, 1 + CLIP)).sum()
                 for b in batch) / count
now = [values(b) for b in batch]
critic_loss = 0.5 * sum(
    torch.maximum((now[b] - returns[b]) ** 2,
                  (torch.clamp(now[b], old_values[b] - VALUE_CLIP, old_values[b] + VALUE_CLIP) - returns[b]) ** 2).sum()
    for b in batch) / count
actor_loss.backward()
critic_loss.backward()

tensors = {"value.weight": head.weight.detach().clone(), "critic.gradient.value.weight": head.weight.grad.clone()}
for name, model in (("actor", actor), ("critic", critic)):
    for key, p in model.named_parameters():
        if p.requires_grad:
            tensors[f"{name}.gradient.{key.replace('.default', '')}"] = p.grad.clone()
save_file(tensors, os.path.join(a.out, "tensors.safetensors"))
clipped = sum(((x - 1).abs() > CLIP).sum().item() for x in ratio)
assert 0 < clipped < count, clipped
lists = lambda rows: [row.tolist() for row in rows]
json.dump(
    {"prompts": [s[:p].tolist() for s, p in zip(sequences, PROMPTS)], "answers": [s[p:].tolist() for s, p in zip(sequences, PROMPTS)],
     "quality": QUALITY, "confidence": CONFIDENCE, "alpha": ALPHA, "kl": KL, "rewardClip": REWARD_CLIP,
     "oldLogprobs": lists(old), "oldValues": lists(old_values), "reference": lists(reference), "scores": scores.tolist(),
     "advantages": lists(advantages), "returns": lists(returns), "outside": clipped / count,
     "actorLoss": actor_loss.item(), "criticLoss": critic_loss.item(),
     "made_by": f"torch {torch.__version__}, transformers {transformers.__version__}"},
    open(os.path.join(a.out, "step.json"), "w"))
