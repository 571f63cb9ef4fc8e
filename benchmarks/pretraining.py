"""Pre-train a small causal language model from scratch, as the start of `finetuning.py`'s language-model runs.

    python benchmarks/pretraining.py --data FOLDER --out runs/language_model

FOLDER holds the text files that `TEXTS` names. It takes half an hour or so on one core; a saved model is not trained
again.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from sortednet.data.text import packed, train_tokenizer

# Files and what of each line is read; nothing of them is in the fine-tuning runs' evaluation sets.
TEXTS = {
    "tinystories_sample.txt.gz": None,
    "alpaca_filtered_extra.jsonl.gz": ("instruction", "input", "output"),
    "alpaca_random9k.jsonl.gz": ("instruction", "input", "output"),
    "webnlg_v1.6_en_train.jsonl.gz": ("refs",),
    "gsm8k_train.jsonl.gz": ("question",),
}
SHAPE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8, "num_attention_heads": 4}
VOCABULARY, LENGTH, BATCH, RATE = 4096, 256, 16, 2e-3


def texts(folder: Path) -> list[str]:
    found = []
    for name, fields in TEXTS.items():
        with gzip.open(folder / name, "rt") as file:
            if fields is None:
                found += [story.strip() for story in file.read().split("<|endoftext|>")]
                continue
            rows = [json.loads(line) for line in file]
        if name == "alpaca_random9k.jsonl.gz":
            rows = rows[:-500]  # `finetuning.py` evaluates on the last ones
        for row in rows:
            held = [row[field] for field in fields if row[field]]
            found.append("\n".join(" ".join(map(str, one)) if isinstance(one, list) else one for one in held))
    return [text for text in found if text]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passes", type=float, default=1.0)
    given = parser.parse_args()
    if (given.out / "model.safetensors").is_file():
        return
    torch.manual_seed(0)
    corpus = texts(given.data)
    tokenizer = train_tokenizer(corpus, VOCABULARY)
    blocks = torch.tensor(packed(corpus, tokenizer, LENGTH)["input_ids"])
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, **tokens, **SHAPE,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    updates = math.floor(given.passes * len(blocks) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, updates // 20, updates)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {blocks.numel():,} tokens, {updates} updates")
    order, started, losses = torch.randperm(len(blocks)), time.time(), []
    for update in range(updates):
        chosen = blocks[order[torch.arange(update * BATCH, (update + 1) * BATCH) % len(blocks)]]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=chosen, labels=chosen).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
        if update % 20 == 19:
            print(f"{update + 1}: {sum(losses[-20:]) / 20:.3f} nats, {time.time() - started:.0f} s", flush=True)
    model.save_pretrained(given.out)
    tokenizer.save_pretrained(given.out)


if __name__ == "__main__":
    main()
