"""Train, from scratch, the sorted language model that `decoding.py` measures on: one model, an exit at seven depths.

    python benchmarks/decoding_model.py --data FOLDER --out runs/decoding_model

FOLDER holds stories (`tinystories_sample.txt.gz`) and texts about facts (E2E and WebNLG). What `decoding.py` takes its
prompts from is left out. It takes about an hour on two cores; a run that was cut short goes on, and a saved model is
not trained again.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import sortednet as sn
from sortednet.data.text import packed, train_tokenizer

HELD_OUT_STORIES = 200  # the last ones
SHAPE = {"hidden_size": 384, "intermediate_size": 1024, "num_attention_heads": 6, "num_key_value_heads": 3}
DEPTHS = [2, 3, 4, 6, 8, 12, 16]
VOCABULARY, LENGTH, BATCH, RATE, UPDATES = 2048, 256, 16, 1.5e-3, 800


def stories(folder: Path) -> list[str]:
    """Return the stories; the last one is cut off in the file and left out."""
    with gzip.open(folder / "tinystories_sample.txt.gz", "rt") as file:
        return [story.strip() for story in file.read().split("<|endoftext|>")][:-1]


def e2e(folder: Path, part: str) -> list[tuple[str, str]]:
    """Return facts about a restaurant and a text about them."""
    with gzip.open(folder / f"e2e_{part}.jsonl.gz", "rt") as file:
        return [(f"{row['mr']}\n", row["ref"]) for row in map(json.loads, file)]


def webnlg(folder: Path, part: str) -> list[tuple[str, str]]:
    """Return facts and a text about them."""
    with gzip.open(folder / f"webnlg_v1.6_en_{part}.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    facts = lambda row: "\n".join(one if isinstance(one, str) else " | ".join(one) for one in row["triples"])  # noqa: E731
    return [(f"{facts(row)}\n", text) for row in rows for text in row["refs"]]


def foreign(folder: Path, kind: str) -> list[tuple[str, str]]:
    """Return texts of another kind than those trained on: questions of GSM8K, or the end of Shakespeare."""
    if kind == "gsm8k":
        with gzip.open(folder / "gsm8k_test_a.jsonl.gz", "rt") as file:
            return [(row["question"] + "\n", row["answer"]) for row in map(json.loads, file)]
    with gzip.open(folder / "tinyshakespeare.txt.gz", "rt") as file:
        words = file.read()[-100_000:].split(" ")
    return [
        (" ".join(words[at : at + 24]), " " + " ".join(words[at + 24 : at + 96]))
        for at in range(0, len(words) - 96, 96)
    ]


def corpus(folder: Path) -> list[str]:
    told = stories(folder)[:-HELD_OUT_STORIES]
    pairs = 2 * e2e(folder, "valid") + webnlg(folder, "train")
    return [text for text in 2 * told + ["".join(pair) for pair in pairs] if text]


def train(folder: Path, out: Path, updates: int) -> None:
    torch.manual_seed(0)
    texts = corpus(folder)
    tokenizer = train_tokenizer(texts, VOCABULARY)
    order = torch.randperm(len(texts)).tolist()
    blocks = torch.tensor(packed([texts[i] for i in order], tokenizer, LENGTH)["input_ids"])
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_hidden_layers=DEPTHS[-1], max_position_embeddings=1024,
        tie_word_embeddings=True, **tokens, **SHAPE,
    )  # fmt: skip
    net = sn.SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=DEPTHS)
    objective = sn.Summation(net.space, settings_weight=lambda at: 2.0 if at == net.space.full else 1.0)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    share = lambda update: min((update + 1) / 40, 1.0, (updates - update) / (0.6 * updates))  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    state = out / "state.pt"
    done, losses, started = 0, [], time.time()
    if state.is_file():
        held = torch.load(state, weights_only=True)
        for name, holder in (("net", net), ("optimizer", optimizer), ("schedule", schedule)):
            holder.load_state_dict(held[name])
        done = held["done"]
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, {blocks.numel():,} tokens, {updates} updates")
    for update in range(done, updates):
        chosen = blocks[torch.arange(update * BATCH, (update + 1) * BATCH) % len(blocks)]
        with torch.autocast("cpu", torch.bfloat16):
            terms = objective.terms(net, {"input_ids": chosen, "labels": chosen}, lambda output, _: output.loss)
        sum(term.loss * term.weight for term in terms).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append([float(term.loss.detach()) for term in terms])
        if update % 20 == 19:
            means = torch.tensor(losses[-20:]).mean(0).tolist()
            print(f"{update + 1}: {[round(mean, 3) for mean in means]} nats, {time.time() - started:.0f} s", flush=True)
        if update % 100 == 99:
            out.mkdir(parents=True, exist_ok=True)
            held = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
            torch.save({**held, "done": update + 1}, state)
    if not all(math.isfinite(loss) for loss in losses[-1]):
        raise SystemExit(f"The training diverged: the last losses are {losses[-1]}.")
    net.save_pretrained(out)
    tokenizer.save_pretrained(out)
    state.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--updates", type=int, default=UPDATES)
    given = parser.parse_args()
    if not (given.out / "model.safetensors").is_file():
        train(given.data, given.out, given.updates)


if __name__ == "__main__":
    main()
