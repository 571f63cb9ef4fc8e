"""The examples of the README and of the pages under docs as programs, with what they take for granted.

That is a model, a tokenizer, data.
"""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)

# A BERT and a language model stand in for those of the Hub, small and untrained, in folders of the same names.
MODELS = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
import sortednet as sn

words = ["[PAD]", "[UNK]", "</s>", *"once upon a time there was a small model that read all day".split()]
inner = Tokenizer(models.WordLevel({word: place for place, word in enumerate(dict.fromkeys(words))}, unk_token="[UNK]"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", eos_token="</s>")
bert = BertConfig(vocab_size=20, hidden_size=32, num_hidden_layers=12, num_attention_heads=4, intermediate_size=64,
                  max_position_embeddings=64)
BertForMaskedLM(bert).save_pretrained("google-bert/bert-base-uncased")
tokenizer.save_pretrained("google-bert/bert-base-uncased")
llama = LlamaConfig(vocab_size=20, hidden_size=32, num_hidden_layers=8, num_attention_heads=4, intermediate_size=64,
                    max_position_embeddings=128, eos_token_id=2, pad_token_id=0)
net = sn.SortedNet.from_pretrained(LlamaForCausalLM(llama), num_hidden_layers=[2, 4, 8])
net.save_pretrained("language_model")
tokenizer.save_pretrained("language_model")
"""
DATA = """
from transformers import AutoTokenizer
_tokenizer = AutoTokenizer.from_pretrained("google-bert/bert-base-uncased")
train = [{**_tokenizer("once upon a time" if i % 2 else "a small model read"), "label": i % 2} for i in range(32)]
dev = train[:8]
"""
ADAPTED = (
    DATA
    + """
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, TrainingArguments
model = AutoModelForSequenceClassification.from_pretrained("google-bert/bert-base-uncased", num_labels=2)
args = TrainingArguments("run")
batches = [DataCollatorWithPadding(_tokenizer)([dict(one) for one in dev])]
def metric(output, batch):
    return (output.logits.argmax(-1) == batch["labels"]).float()
"""
)
# By a line that an example begins with: what comes before it, and what in it is called otherwise here.
TAKEN_FOR_GRANTED = {
    "from transformers import AutoModelForSequenceClassification": (DATA, {}),
    "import sortednet as sn\nfrom peft import LoraConfig": (ADAPTED, {}),
    "import sortednet as sn\nfrom transformers import AutoTokenizer": ("", {'"model"': '"language_model"'}),
}


def examples() -> dict[str, str]:
    """Return the examples of each page as one program, by the page's name."""
    found: dict[str, str] = {}
    for page in PAGES:
        found |= _examples_of(page)
    return found


def _examples_of(page: Path) -> dict[str, str]:
    text, heading = page.read_text(), page.name
    found: dict[str, str] = {}
    for block in BLOCK.finditer(text):
        indent = block[1]
        code = "\n".join(line.removeprefix(indent) for line in block[2].splitlines()) + "\n"
        before, renamed = next((held for start, held in TAKEN_FOR_GRANTED.items() if code.startswith(start)), ("", {}))
        for old, new in renamed.items():
            code = code.replace(old, new)
        found[heading] = found.get(heading, "") + before + code
    return found


def run(python: str, folder: Path, seconds: float = 600) -> dict[str, tuple[int, str]]:
    """Run the models' program, then each example in the same folder; return status and standard error by page."""
    ended = {}
    for heading, program in {"": MODELS, **examples()}.items():
        file = folder / "example.py"
        file.write_text(program)
        process = subprocess.run(
            [python, str(file)], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            timeout=seconds,
        )  # fmt: skip
        ended[heading] = (process.returncode, process.stderr)
    return ended
