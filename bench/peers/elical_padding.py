"""What the published way of reading a confidence gives on a small model: transformers, PEFT and a Linear on rows padded to
the longest of their batch, read at index -1, with and without the end-of-sequence token, and one step of its training.

  python elical_padding.py --out tests/golden/elical-padding

Writes the model (a random llama), an adapter and a head as the released ones lie on the disk (the adapter of the bare
backbone as PEFT saves it, the head by torch.save), and expected.json: logits of every row in each reading, and the loss,
gradient norm and next loss of one AdamW step at the reading that was published.
"""
import argparse, json, os, shutil
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

ap = argparse.ArgumentParser()
ap.add_argument("--out", required=True)
a = ap.parse_args()

torch.manual_seed(41)
torch.set_num_threads(1)
PAD, EOS, GROUP = 2, 3, 4
LEARNING_RATE, WEIGHT_DECAY = 1e-2, 0.1
LENGTHS = [5, 11, 1, 7, 70, 64, 63, 2, 9, 9]  # around a page of 64; the last group is not full, and its rows are equal
ROWS = [torch.randint(4, 61, (n,)).tolist() for n in LENGTHS]
TARGETS = [i / 20 for i in (0, 20, 13, 7, 1, 19, 10, 4, 16, 11)]

if os.path.exists(a.out):
    shutil.rmtree(a.out)
config = transformers.LlamaConfig(
    vocab_size=61, hidden_size=36, intermediate_size=44, num_hidden_layers=2, num_attention_heads=3,
    num_key_value_heads=1, head_dim=12, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=True,
    bos_token_id=1, eos_token_id=EOS, pad_token_id=PAD)
causal = transformers.LlamaForCausalLM(config).float()
with torch.no_grad():
    for name, p in causal.named_parameters():
        p.copy_(1 + 0.1 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * 1.4 / p.shape[-1] ** 0.5)
causal.save_pretrained(os.path.join(a.out, "model"))

trained = os.path.join(a.out, "batchsize16_accumulation8_epochs10_weightdecay0.1_r8_alpha16_loradropout0.0", "best_checkpoints")
lora = LoraConfig(r=3, lora_alpha=6, lora_dropout=0.0, bias="none", target_modules=[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
backbone = get_peft_model(transformers.AutoModel.from_pretrained(os.path.join(a.out, "model")), lora)
head = torch.nn.Linear(config.hidden_size, 1)
with torch.no_grad():
    for name, p in backbone.named_parameters():
        if "lora_B" in name:
            p.copy_(0.1 * torch.randn_like(p))
backbone.save_pretrained(os.path.join(trained, "lora_epoch_best"))
os.remove(os.path.join(trained, "lora_epoch_best", "README.md"))
path = os.path.join(trained, "lora_epoch_best", "adapter_config.json")
saved = json.load(open(path))
saved["base_model_name_or_path"] = "/home/somebody/models/Tiny-Instruct"
json.dump(saved, open(path, "w"), indent=2, sort_keys=True)
torch.save(head.state_dict(), os.path.join(trained, "vector_head_epoch_best.pt"))


def load():
    global backbone, head
    backbone = PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(os.path.join(a.out, "model")),
                                         os.path.join(trained, "lora_epoch_best"), is_trainable=True)
    head = torch.nn.Linear(config.hidden_size, 1)
    head.load_state_dict(torch.load(os.path.join(trained, "vector_head_epoch_best.pt"), weights_only=True))


def logits(rows, side, index):
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), PAD)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, at] = torch.tensor(row)
        mask[i, at] = 1
    hidden = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    if index == "last_real":
        last = torch.tensor([len(row) - 1 if side == "right" else longest - 1 for row in rows])
        return head(hidden[torch.arange(len(rows)), last]).squeeze(-1)
    return head(hidden[:, -1]).squeeze(-1)


def grouped(rows, size, side, index):
    return torch.cat([logits(rows[i:i + size], side, index) for i in range(0, len(rows), size)])


def squared_error(rows, index):
    return torch.nn.functional.mse_loss(torch.sigmoid(grouped(rows, GROUP, "right", index)), torch.tensor(TARGETS))


out = {"pad": PAD, "eos": EOS, "group": GROUP, "rows": ROWS, "targets": TARGETS, "learningRate": LEARNING_RATE,
       "weightDecay": WEIGHT_DECAY, "logits": {}, "steps": {},
       "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}
for eos in (False, True):
    load()
    rows = [row + [EOS] for row in ROWS] if eos else ROWS
    tail = "+eos" if eos else ""
    with torch.no_grad():
        out["logits"]["right,-1" + tail] = grouped(rows, GROUP, "right", "minus_one").tolist()
        out["logits"]["right,-1,alone" + tail] = grouped(rows, 1, "right", "minus_one").tolist()
        out["logits"]["left,-1" + tail] = grouped(rows, GROUP, "left", "minus_one").tolist()
        out["logits"]["last_real" + tail] = grouped(rows, GROUP, "right", "last_real").tolist()
    for index in ("minus_one", "last_real"):
        load()
        learnt = [p for p in backbone.parameters() if p.requires_grad] + list(head.parameters())
        optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        loss = squared_error(rows, index)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        with torch.no_grad():
            after = squared_error(rows, index)
        out["steps"][index + tail] = {"loss": loss.item(), "gradientNorm": norm.item(), "after": after.item()}
json.dump(out, open(os.path.join(a.out, "expected.json"), "w"), indent=1)
