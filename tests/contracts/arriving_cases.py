"""What people and trainers set on a model after a network was made of it: each arrives at all of its sub-models.

Every case is the same change, made on the full model and, by hand, on the plain small model that is extracted of an
untouched network; then both must do the same. A new thing that can be set is one more case.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers as hf
from peft import LoraConfig
from peft.helpers import rescale_adapter_scale
from torch import Tensor, nn
from torch.nn import functional

import sortednet as sn
from sortednet import SortedNet

from .adapter_cases import spread
from .pretrained_cases import GROUPS, HEADS, SIZES

IDS = torch.randint(5, 40, (4, 7), generator=torch.Generator().manual_seed(2))
ENDED = IDS.index_put((torch.tensor([0, 0, 1]), torch.tensor([5, 6, 6])), torch.tensor(3))  # by the symbol 3
CLASSES = torch.tensor([0, 2, 1, 0])
TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
SIZE = {**SIZES, "num_hidden_layers": 2, "max_position_embeddings": 16}


def _make(model_class: type[nn.Module], config: Any, **supports: Any) -> SortedNet:
    torch.manual_seed(0)
    model = model_class(config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return SortedNet.from_pretrained(model, **(supports or {"num_hidden_layers": [1, 2]}))


def _llama(**own: Any) -> hf.LlamaConfig:
    return hf.LlamaConfig(**{**SIZE, **GROUPS, **TOKENS, **own})


def _bert(**own: Any) -> hf.BertConfig:
    return hf.BertConfig(**{**SIZE, **HEADS, "pad_token_id": 0, "num_labels": 3, **own})


def _gpt2_classifier() -> SortedNet:
    config = hf.GPT2Config(
        vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, n_inner=24, num_labels=3, **TOKENS
    )
    return _make(hf.GPT2ForSequenceClassification, config, num_hidden_layers=[1, 2], n_inner=[10, 24])


def _mixtral() -> SortedNet:
    config = hf.MixtralConfig(**{**SIZE, **GROUPS, **TOKENS}, num_local_experts=2, num_experts_per_tok=1)
    return _make(hf.MixtralForCausalLM, config)


def _t5() -> SortedNet:
    config = hf.T5Config(
        vocab_size=40, d_model=32, d_kv=8, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0
    )
    return _make(hf.T5ForConditionalGeneration, config, num_layers=[1, 2])


def _adapted(make: Callable[[], nn.Module], **own: Any) -> SortedNet:
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, **own)
    return spread(sn.dylora(make(), config, ranks=[1, 2, 4]))


NETS: dict[str, Callable[[], SortedNet]] = {
    "llama": lambda: _make(hf.LlamaForCausalLM, _llama()),
    "llama_classifier": lambda: _make(hf.LlamaForSequenceClassification, _llama(num_labels=3)),
    "llama_padded": lambda: _make(hf.LlamaForSequenceClassification, _llama(num_labels=3, pad_token_id=0)),
    "gpt2_classifier": _gpt2_classifier,
    "bert": lambda: _make(
        hf.BertForSequenceClassification, _bert(), num_hidden_layers=[1, 2], num_attention_heads=[2, 4]
    ),
    "mixtral": _mixtral,
    "t5": _t5,
    "adapted_bert": lambda: _adapted(
        lambda: hf.BertForSequenceClassification(_bert()), target_modules=["query", "value"], task_type="SEQ_CLS"
    ),
    "adapted_llama": lambda: _adapted(
        lambda: hf.LlamaForCausalLM(_llama()), target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM"
    ),
}  # fmt: skip


@cache
def _held(name: str) -> SortedNet:
    return NETS[name]()


def net_of(name: str) -> SortedNet:
    """Return a network of its own, always with the same weights."""
    return copy.deepcopy(_held(name)).eval()


@dataclass(frozen=True)
class Arriving:
    """One thing that is set after construction.

    Attributes:
        name: What it is.
        net: The name of its network.
        change: Sets it on a model; what it returns is a context in which it is set.
        inputs: Of the forward.
        show: What else than the output tells of it, read of a module.
        by_net: Whether it is set on the network itself, as trainers do.
        train: Whether it shows in training alone.
        of_training: Whether what it shows is not there in inference.
    """

    name: str
    net: str
    change: Callable[[Any], Any]
    inputs: Mapping[str, Tensor]
    show: Callable[[Any], Any] = lambda module: None
    by_net: bool = False
    train: bool = False
    of_training: bool = False


def _set(where: str, **values: Any) -> Callable[[Any], None]:
    """Return what sets fields of something that a model holds; of the model itself where it has no name."""

    def change(model: Any) -> None:
        held = getattr(model, where) if where else model
        for name, value in values.items():
            setattr(held, name, value)

    return change


def _doubled(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **given: Any) -> Any:
    """An attention of the user's own."""
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, 1) for one in (key, value))
    found = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    return 2 * found.transpose(1, 2).contiguous(), None


hf.AttentionInterface.register("sortednet_doubled", _doubled)
hf.AttentionMaskInterface.register("sortednet_doubled", lambda *args, **kwargs: None)


def _attentions(model: Any) -> None:
    model.set_attn_implementation("eager")
    model.config.output_attentions = True


def _labels(model: Any) -> None:
    model.config.id2label = {0: "no", 1: "yes", 2: "perhaps"}
    model.config.label2id = {"no": 0, "yes": 1, "perhaps": 2}


def _label_in_place(model: Any) -> None:
    model.config.id2label[0] = "none"


def _own_loss(logits: Tensor, labels: Tensor, **given: Any) -> Tensor:
    return (logits - 1).square().mean()


def _new_head(model: Any) -> None:
    torch.manual_seed(4)
    model.config.num_labels = 5
    model.num_labels = 5
    model.score = nn.Linear(32, 5, bias=False)


def _resize(model: Any) -> None:
    torch.manual_seed(4)
    model.resize_token_embeddings(45, mean_resizing=False)


def _without_dropout(model: Any) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def _checkpointing(model: Any) -> None:
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


def _checkpointing_off(model: Any) -> None:
    _checkpointing(model)
    getattr(model, "activation_checkpointing_disable", model.gradient_checkpointing_disable)()


def _frozen(model: Any) -> None:
    model.get_input_embeddings().weight.requires_grad_(False)


def _scaled(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 0.25)


def _checkpoints(module: Any) -> list[bool]:
    return [one.gradient_checkpointing for one in module.modules() if hasattr(one, "gradient_checkpointing")]


def _off_and_on(model: Any) -> None:
    model.base_model.disable_adapter_layers()
    model.base_model.enable_adapter_layers()


CAUSAL = {"input_ids": IDS}
LABELLED = {"input_ids": IDS, "labels": IDS}
CLASSIFIED = {"input_ids": IDS, "labels": CLASSES}
REGRESSED = {"input_ids": IDS, "labels": torch.rand(4, 3, generator=torch.Generator().manual_seed(5)).round()}
T5 = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}

ARRIVING = [
    Arriving("a first padding id of GPT-2", "gpt2_classifier", _set("config", pad_token_id=3), {"input_ids": ENDED}),
    Arriving("a first padding id of Llama", "llama_classifier", _set("config", pad_token_id=3), {"input_ids": ENDED}),
    Arriving("another padding id", "llama_padded", _set("config", pad_token_id=3), {"input_ids": ENDED}),
    Arriving("special ids", "llama", _set("config", bos_token_id=7, eos_token_id=[8, 9]), CAUSAL,
             show=lambda module: (module.config.bos_token_id, module.config.eos_token_id)),
    Arriving("an attention implementation", "llama",
             lambda model: model.set_attn_implementation("sortednet_doubled"), LABELLED),
    Arriving("an attention implementation by the config", "llama",
             _set("config", _attn_implementation="sortednet_doubled"), LABELLED),
    Arriving("output_attentions", "bert", _attentions, CAUSAL),
    Arriving("output_hidden_states", "llama", _set("config", output_hidden_states=True), CAUSAL),
    Arriving("output_hidden_states of an encoder and decoder", "t5", _set("config", output_hidden_states=True), T5),
    Arriving("return_dict", "bert", _set("config", return_dict=False), CLASSIFIED),
    Arriving("use_cache", "llama", _set("config", use_cache=False), CAUSAL),
    Arriving("regression", "bert", _set("config", problem_type="regression"), REGRESSED),
    Arriving("several labels for one", "bert", _set("config", problem_type="multi_label_classification"), REGRESSED),
    Arriving("names of labels", "bert", _labels, CLASSIFIED,
             show=lambda module: (module.config.id2label, module.config.label2id)),
    Arriving("a name of a label in place", "bert", _label_in_place, CLASSIFIED,
             show=lambda module: module.config.id2label),
    Arriving("a whole config", "llama_padded", lambda model: _set("", config=_changed(model.config))(model),
             {"input_ids": ENDED}, show=lambda module: module.config.pad_token_id),
    Arriving("generation settings", "llama", _set("generation_config", max_new_tokens=3, do_sample=False), CAUSAL,
             show=lambda module: module.generation_config.max_new_tokens),
    Arriving("a generation config", "llama", _set("", generation_config=hf.GenerationConfig(max_new_tokens=2)), CAUSAL,
             show=lambda module: module.generation_config.max_new_tokens),
    Arriving("a generation config by the network", "llama",
             _set("", generation_config=hf.GenerationConfig(max_new_tokens=2)), CAUSAL, by_net=True,
             show=lambda module: module.generation_config.max_new_tokens),
    Arriving("a loss function", "llama", _set("", loss_function=_own_loss), LABELLED),
    Arriving("a loss function by the network", "llama", _set("", loss_function=_own_loss), LABELLED, by_net=True),
    Arriving("a kind of loss", "llama", _set("", loss_type="ForMaskedLM"), LABELLED),
    Arriving("the loss of a router", "mixtral", _set("config", output_router_logits=True), LABELLED),
    Arriving("checkpointing", "llama", _checkpointing, LABELLED, show=_checkpoints, train=True, of_training=True),
    Arriving("checkpointing switched off", "llama", _checkpointing_off, LABELLED, show=_checkpoints, train=True,
             of_training=True),
    Arriving("more symbols", "llama", _resize, LABELLED, show=lambda module: module.config.vocab_size),
    Arriving("another head", "llama_padded", _new_head, CLASSIFIED, show=lambda module: module.config.num_labels),
    Arriving("another head by the network", "llama_padded", _new_head, CLASSIFIED, by_net=True,
             show=lambda module: module.config.num_labels),
    Arriving("no dropout", "bert", _without_dropout, CLASSIFIED, train=True),
    Arriving("the epsilon of a norm", "bert", lambda model: _set("", eps=1.0)(model.bert.embeddings.LayerNorm), CAUSAL),
    Arriving("another type", "llama", lambda model: model.to(torch.float64), LABELLED),
    Arriving("frozen weights", "llama", _frozen, LABELLED,
             show=lambda module: module.get_input_embeddings().weight.requires_grad, of_training=True),
    Arriving("no adapter for a while", "adapted_bert", lambda model: model.disable_adapter(), CLASSIFIED),
    Arriving("no adapter for a while, of a language model", "adapted_llama", lambda model: model.disable_adapter(),
             LABELLED),
    Arriving("no adapter", "adapted_bert", lambda model: model.base_model.disable_adapter_layers(), CLASSIFIED),
    Arriving("an adapter again", "adapted_bert", _off_and_on, CLASSIFIED),
    Arriving("a scaling", "adapted_bert", _scaled, CLASSIFIED),
    Arriving("a scaling for a while", "adapted_bert", lambda model: rescale_adapter_scale(model, 0.5), CLASSIFIED),
    Arriving("an adapter's dropout", "adapted_llama", _without_dropout, LABELLED, train=True),
    Arriving("a config below an adapter", "adapted_bert",
             lambda model: _set("config", output_hidden_states=True)(model.get_base_model()), CLASSIFIED),
]  # fmt: skip


def _changed(config: Any) -> Any:
    found = copy.deepcopy(config)
    found.pad_token_id = 3
    return found


@contextmanager
def _in(change: Callable[[Any], Any], model: Any) -> Iterator[None]:
    found = change(model)
    with found if isinstance(found, AbstractContextManager) else nullcontext():
        yield


def told(output: Any) -> dict[str, Any]:
    """Return what an output holds by name, whatever kind of output it is; of a cache that it is there."""
    if isinstance(output, (tuple, list)):
        named: dict[str, Any] = {str(place): one for place, one in enumerate(output)}
    else:
        named = output if isinstance(output, dict) else {"loss": output.loss}  # of an exit that is read in chunks
    return {name: "cache" if isinstance(one, hf.Cache) else one for name, one in named.items()}


USES: dict[str, Callable[[SortedNet, Any], Any]] = {
    "net": lambda net, setting: net,
    "at": lambda net, setting: net.at(setting),
    "submodel": lambda net, setting: net.submodel(setting),
    "extract": lambda net, setting: net.extract(setting),
}
"""By way of using a sub-model, what runs it."""


@cache
def _expected(name: str, setting: sn.Setting, train: bool) -> tuple[dict[str, Any], Any]:
    """Return what a plain small model does on which it was set by hand, and what it shows."""
    case = next(one for one in ARRIVING if one.name == name)
    plain = net_of(case.net).extract(setting)
    with _in(case.change, plain):
        plain.train(train)
        return told(plain(**case.inputs)), case.show(plain)


WAYS = (*USES, "exits")


def arrives(case: Arriving, before: Sequence[str], after: Sequence[str]) -> None:
    """Check that a change has arrived.

    Args:
        case: The change.
        before: In which ways sub-models were used before, of `WAYS`.
        after: In which ways they are used afterwards, and compared.

    Raises:
        AssertionError: If it has not.
    """
    net = net_of(case.net)
    for way in before:
        with suppress(ValueError):  # such as without a padding id
            _run(net, case, way)
    with _in(case.change, net if case.by_net else net.full):
        net.train(case.train)
        for way in after:
            _check(net, case, way)


def settings_arriving() -> dict[str, bool]:
    """Return by name whether a change arrives in every way, and whether sub-models were used before or not."""
    found = {}
    for case in ARRIVING:
        try:
            for way in WAYS:
                arrives(case, (), [way])
            arrives(case, WAYS, WAYS)
        except Exception:  # an error is no arrival either
            found[case.name] = False
        else:
            found[case.name] = True
    return found


def _run(net: SortedNet, case: Arriving, use: str) -> list[tuple[Any, Any, Any]]:
    """Return the outputs of sub-models, their settings, and the modules that were run."""
    small, full = net.space.smallest, net.space.full
    if use == "exits":
        outputs = net(**case.inputs, settings=[small, full])
        return [(one, setting, None) for one, setting in zip(outputs, (small, full), strict=True)]
    setting = full if use == "net" else small
    run = USES[use](net, setting)
    output = run(**case.inputs)
    return [(output, setting, run if use in ("submodel", "extract") else net.skeleton(setting).module)]


def _check(net: SortedNet, case: Arriving, use: str) -> None:
    for output, setting, module in _run(net, case, use):
        found = told(output)
        values, shown = _expected(case.name, setting, case.train and use != "submodel")
        named = found.keys() & values.keys() if use == "exits" else found.keys() | values.keys()
        assert named
        for name in named:
            if found[name] is None or isinstance(found[name], str):
                assert found[name] == values[name]
            else:
                torch.testing.assert_close(found[name], values[name], rtol=1e-5, atol=1e-6)
        if module is not None and not (use == "submodel" and case.of_training):
            assert case.show(module) == shown
