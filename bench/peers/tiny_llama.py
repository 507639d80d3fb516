"""What the scripts of one training step share: a small random llama with a tokenizer of words, and adapters on it that do something."""
import json, os, shutil
import torch
import transformers
from peft import LoraConfig, get_peft_model

EVERY_PROJECTION = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def write_base(out, vocabulary, seed):
    """Writes the model into a folder that is made anew, and seeds all draws. Returns its configuration."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    if os.path.exists(out):
        shutil.rmtree(out)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=44, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2)
    base = transformers.LlamaForCausalLM(config).float()
    with torch.no_grad():
        for _, p in base.named_parameters():
            p.copy_(1 + 0.1 * torch.randn_like(p) if p.dim() == 1 else torch.randn_like(p) * 1.4 / p.shape[-1] ** 0.5)
    base.save_pretrained(out)
    words = {f"w{i}": i for i in range(vocabulary)}
    json.dump({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "Whitespace"},
               "post_processor": None, "decoder": None, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}},
              open(os.path.join(out, "tokenizer.json"), "w"))
    json.dump({"bos_token": "w1", "eos_token": "w2", "unk_token": "w0"},
              open(os.path.join(out, "tokenizer_config.json"), "w"))
    return config


def with_adapter(out, name, size, targets=EVERY_PROJECTION, **lora):
    """The base in `out` with an adapter whose B is random of this size, which is saved there by its name. No dropout."""
    fresh = transformers.LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    model = get_peft_model(fresh, LoraConfig(lora_dropout=0.0, bias="none", target_modules=targets, **lora))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_B" in key:
                p.copy_(size * torch.randn_like(p))
    folder = os.path.join(out, name)
    model.save_pretrained(folder)
    os.remove(os.path.join(folder, "README.md"))
    path = os.path.join(folder, "adapter_config.json")
    saved = json.load(open(path))
    saved["base_model_name_or_path"] = ""
    json.dump(saved, open(path, "w"), indent=2, sort_keys=True)
    return model
