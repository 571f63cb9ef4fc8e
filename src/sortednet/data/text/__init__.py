"""Text to fine-tune pretrained language models and encoders on, or to pre-train small ones: load, encode, measure.

The tokenizer is one of Hugging Face, given by the caller; needs `pip install "sortednet[text]"`.
"""

from .encoding import EncodedText, check_labels, check_tokenizer, encode, prompts
from .examples import TextData, TextTask, from_columns
from .metrics import METRICS, compute_metrics
from .pretraining import packed, train_tokenizer
from .sources import load_files, load_hub, load_task, load_text

__all__ = [
    "METRICS",
    "EncodedText",
    "TextData",
    "TextTask",
    "check_labels",
    "check_tokenizer",
    "compute_metrics",
    "encode",
    "from_columns",
    "load_files",
    "load_hub",
    "load_task",
    "load_text",
    "packed",
    "prompts",
    "train_tokenizer",
]
