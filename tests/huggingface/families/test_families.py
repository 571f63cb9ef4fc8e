"""Hugging Face's models: what may be sorted, what is refused, saving and opening."""

import copy
import json
import re
import subprocess
import sys
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import nn

import sortednet as sn
from sortednet.errors import BuildError, CheckpointError, ConfigError, SpaceError
from sortednet.files import records
from sortednet.huggingface.families import mobilenet_v2, open_pretrained
from sortednet.models import resolve
from sortednet.views.layouts import cuts_by_shape

from ...contracts.pretrained_cases import GROUPS, HEADS, IDS, PRETRAINED, SIZES, TOKENS

FAMILIES = {case.name: case for case in PRETRAINED}


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def features(model, size):
    """Shape of the features before pooling."""
    with torch.no_grad():
        return tuple(model.eval().model.mobilenet_v2(images(size)).last_hidden_state.shape)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return sn.SortedNet(mobilenet_v2, sn.Space(depth=[1, 6, 13, 16], width=[0.1, 0.3, 1.0])).eval()


@pytest.fixture(scope="module")
def full_on_meta():
    with torch.device("meta"):
        return mobilenet_v2()


@pytest.mark.parametrize("depth", range(1, 17))
def test_every_sub_model_is_a_corner_of_the_full_model(full_on_meta, depth):
    full = full_on_meta.state_dict()
    for tenth in range(1, 11):
        with torch.device("meta"):
            small = mobilenet_v2(depth, tenth / 10)
        for name, tensor in small.state_dict().items():
            assert name in full, (tenth, name)
            assert tensor.dim() == full[name].dim(), (tenth, name)
            assert all(s <= f for s, f in zip(tensor.shape, full[name].shape, strict=True)), (tenth, name)


def test_sub_model_equals_extracted_model(net):
    x = images()
    with torch.no_grad():
        for setting in net.space:
            assert torch.equal(net.at(setting)(x), net.extract(setting)(x)), setting


def test_largest_setting_is_the_full_model(net):
    with torch.no_grad():
        assert torch.equal(net.at(net.space.full)(images()), net.full(images()))


def test_full_model_is_hugging_faces_own():
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    torch.manual_seed(0)
    built = mobilenet_v2(base_multiplier=0.5, small_images=False).eval()
    plain = MobileNetV2ForImageClassification(MobileNetV2Config(num_labels=10, depth_multiplier=0.5)).eval()
    plain.load_state_dict(built.model.state_dict())
    with torch.no_grad():
        assert torch.equal(built(images()), plain(images()).logits)


def test_output_is_a_plain_tensor_of_logits():
    assert mobilenet_v2(depth=1, width=0.1, classes=7)(images()).shape == (2, 7)


def test_gradients_reach_every_parameter_of_a_truncated_model():
    model = mobilenet_v2(depth=3, width=0.2)
    model(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_depth_keeps_the_first_blocks(full_on_meta):
    with torch.device("meta"):
        small = mobilenet_v2(depth=5)
    full = dict(full_on_meta.model.mobilenet_v2.layer[:5].named_parameters())
    found = dict(small.model.mobilenet_v2.layer.named_parameters())
    assert {name: p.shape for name, p in found.items()} == {name: p.shape for name, p in full.items()}


def test_small_images_are_shrunk_by_8():
    assert features(mobilenet_v2(width=0.1), 32)[2:] == (4, 4)


def test_large_images_are_shrunk_by_32():
    assert features(mobilenet_v2(width=0.1, small_images=False), 64)[2:] == (2, 2)


def test_resolve_finds_it():
    assert resolve("mobilenet_v2") is mobilenet_v2


@pytest.mark.parametrize("depth", [0, 17, 2.0, True])
def test_a_depth_outside_1_to_16_is_refused(depth):
    with pytest.raises(
        ConfigError, match=rf"depth={depth}\): depth is a whole number from 1 to 16. Correct it, or drop"
    ):
        mobilenet_v2(depth)


@pytest.mark.parametrize("width", [0, -0.1, 1.1, float("nan")])
def test_a_width_outside_its_range_is_refused(width):
    with pytest.raises(ConfigError, match=rf"width={width}\): width is a share in \(0, 1\].*Correct it"):
        mobilenet_v2(width=width)


@pytest.mark.parametrize("name", ["classes", "image_size"])
def test_a_size_of_zero_is_refused(name):
    with pytest.raises(ConfigError, match=rf"{name}=0\): {name} is a whole number of at least 1. Correct it"):
        mobilenet_v2(**{name: 0})


def test_a_multiplier_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"base_multiplier=0\): it is above 0, such as 1.4"):
        mobilenet_v2(base_multiplier=0)


def test_missing_transformers_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for call in (partial(mobilenet_v2, width=0.1), partial(open_pretrained, "somewhere")):
        with pytest.raises(ImportError, match=r'needs transformers.*pip install "sortednet\[transformers\]"'):
            call()


# --- what is sorted -------------------------------------------------------------------------------------------------


def llama(**own):
    return hf.LlamaForCausalLM(FAMILIES["llama"].make_config(**own))


def sort(model, readout="own", **supports):
    return sn.SortedNet.from_pretrained(model, readout=readout, **supports)


@pytest.mark.parametrize(
    ("make", "supports", "error", "text"),
    [
        (llama, {"intermediate_size": [10, 48]}, SpaceError,
         r"The largest value of intermediate_size=\[10, 48\] is 48, larger than the pretrained size: the model "
         r"has 24\. Let 24 be the largest value"),
        (llama, {"intermediate_size": [10, 20]}, SpaceError, r"is 20, smaller than it: the model has 24\. Let 24 be"),
        (llama, {"num_attention_heads": [1, 4]}, SpaceError,
         r"num_attention_heads=1 does not divide: the model has 4 heads for 2 key and value heads, so it must be a "
         r"multiple of 2\. Choose such numbers"),
        (llama, {"num_attention_heads": [2, 3, 4]}, SpaceError, r"num_attention_heads=3 does not divide"),
        (llama, {"num_key_value_heads": [1, 2]}, SpaceError,
         r"num_key_value_heads=1 does not go with num_attention_heads=4: in the model 2 heads share a key and value "
         r"head, and they would read others\. Leave num_key_value_heads out, which then follows num_attention_heads"),
        (llama, {"num_key_value_heads": [1, 2], "num_attention_heads": [2, 4]}, SpaceError, r"would read others"),
        (partial(llama, head_dim=8), {"head_dim": [4, 8]}, BuildError,
         r"head_dim of LlamaForCausalLM cannot be sorted: a corner of smaller heads would mix the heads\. Sort their "
         r"number, num_attention_heads"),
        (FAMILIES["t5"].model, {"d_kv": [4, 8]}, BuildError, r"d_kv of T5.* cannot be sorted.*number, num_heads"),
        (FAMILIES["bert"].model, {"hidden_size": [12, 32]}, SpaceError,
         r"hidden_size=12 is no multiple of the head size, 8\. Choose multiples of 8, so that no head is cut in two"),
        (FAMILIES["bert"].model, {"hidden_size": [16, 20, 32]}, SpaceError, r"hidden_size=20 is no multiple"),
        (llama, {"width": [1, 2]}, SpaceError,
         r"width is no size in the config of LlamaForCausalLM: it is None\. Choose among its fields: .*hidden_size"),
        (llama, {"hidden_act": [1, 2]}, SpaceError, r"hidden_act is no size .* it is 'silu'\. Choose among its fields"),
        (llama, {"use_cache": [0, 1]}, SpaceError, r"use_cache is no size .* it is True"),
        (llama, {"rms_norm_eps": [1e-9, 1e-6]}, BuildError, r"rms_norm_eps changes no tensor of the model"),
        (llama, {"eos_token_id": [1, 2]}, BuildError, r"eos_token_id changes no tensor.*Sort another field"),
        (lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**{**SIZES, **HEADS, "embedding_size": 8})),
         {"num_hidden_layers": [1, 2]}, BuildError,
         r"num_hidden_layers changes no tensor of the model: .*Its layers may be one layer used again"),
        (FAMILIES["convnext"].model, {"hidden_sizes": [0.3, 1.0]}, SpaceError,
         r"A share of 0\.3 of hidden_sizes=\[8, 16\] is .*Choose shares that give whole numbers"),
        (FAMILIES["resnet"].model, {"hidden_sizes": [0.5, 0.9]}, SpaceError, r"is 0\.9, smaller than it"),
        (FAMILIES["resnet"].model, {"depths": [1, 5]}, SpaceError, r"is 5, larger than the pretrained"),
        (nn.Module, {"depth": [1, 2]}, BuildError,
         r"Module has no Hugging Face config\. Give a transformers model, or use SortedNet\(build, space, model=mo"),
    ],
)  # fmt: skip
def test_what_cannot_be_sorted_is_refused_before_anything_is_trained(make, supports, error, text):
    model = make()
    before = set(model.state_dict())
    with pytest.raises(error, match=text):
        sort(model, readout="default", **supports)
    assert set(model.state_dict()) == before  # no readout is left on it


@pytest.mark.parametrize("name", ["num_experts_per_tok", "num_local_experts"])
def test_the_number_of_experts_is_refused(name):
    with pytest.raises(
        BuildError, match=rf"{name} of Mixtral.* cannot be sorted: the router chooses among all experts"
    ):
        sort(mixtral(), **{name: [1, 2] if "per" in name else [2, 4]})


def mixtral():
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(**{**SIZES, **GROUPS, **TOKENS}, num_local_experts=4, num_experts_per_tok=2)
    )


def assert_zeroed(net, *texts):
    """Assert invariant 3 on token ids."""
    ids = {"input_ids": IDS}
    held = dict(net.full.named_parameters(remove_duplicate=False))
    for text in texts:
        setting = net.space.setting(**sn.Setting.parse(text))
        zeroed = copy.deepcopy(net.full)
        masks = {id(one): torch.zeros_like(one, dtype=torch.bool) for one in held.values()}
        for name, cut in net.skeleton(setting).slots():
            cut.mark(masks[id(held[name])], True)
        with torch.no_grad():
            for one, own in zip(zeroed.parameters(), net.full.parameters(), strict=True):
                one.mul_(masks[id(own)])
            torch.testing.assert_close(net.at(setting)(**ids).logits, zeroed(**ids).logits, rtol=0, atol=1e-5)


def test_one_key_and_value_head_serves_any_number_of_heads():
    net = sort(llama(num_key_value_heads=1), num_attention_heads=[1, 3, 4]).eval()
    assert net.extract(num_attention_heads=3).config.num_key_value_heads == 1
    assert_zeroed(net, "num_attention_heads=3", "num_attention_heads=1")


def test_key_and_value_heads_may_be_listed_with_the_heads_they_serve():
    space = sn.Space(
        [{"num_attention_heads": 2, "num_key_value_heads": 1}, {"num_attention_heads": 4, "num_key_value_heads": 2}]
    )
    net = sn.SortedNet.from_pretrained(llama(), space=space).eval()
    assert_zeroed(net, "num_attention_heads=2,num_key_value_heads=1")


def test_key_and_value_heads_follow_a_smaller_hidden_size():
    # Each query head must read the key and value head that it reads in the full model.
    model = hf.Olmo2ForCausalLM(hf.Olmo2Config(**{**SIZES, **GROUPS, **TOKENS}))
    config = sort(model, hidden_size=[16, 32]).extract(hidden_size=16).config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)


@pytest.mark.parametrize("given", [{"is_quantized": True}, {"quantization_config": {"quant_method": "gptq"}}])
def test_a_quantised_model_is_refused(given):
    model = llama()
    for name, value in given.items():
        setattr(model if name == "is_quantized" else model.config, name, value)
    with pytest.raises(BuildError, match=r"LlamaForCausalLM is quantised, .*Load it without quantization_config"):
        sort(model, num_hidden_layers=[1, 2])


def test_a_list_of_layers_of_the_wrong_length_is_refused():
    model = FAMILIES["gemma3"].model()
    model.config.layer_types = ["full_attention"] * 3
    with pytest.raises(
        BuildError, match=r"layer_types of the config has 3 entries for 2 layers\. Give one for each layer"
    ):
        sort(model, num_hidden_layers=[1, 2])


def test_a_space_and_supports_are_not_taken_together():
    with pytest.raises(BuildError, match=r"Give space=Space\(.*\) or num_hidden_layers, not both"):
        sort(llama(), space=sn.Space(num_hidden_layers=[1, 2]), num_hidden_layers=[1, 2])


def test_a_folder_whose_config_names_no_class_is_refused(tmp_path):
    llama().config.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"names no class of transformers \(architectures=None\)\. Open the model your"
    ):
        sn.SortedNet.from_pretrained(tmp_path, num_hidden_layers=[1, 2])


def test_a_network_opens_from_a_folder_as_its_own_class(tmp_path):
    llama().save_pretrained(tmp_path)
    assert type(sn.SortedNet.from_pretrained(tmp_path, num_hidden_layers=[1, 2]).full) is hf.LlamaForCausalLM


def test_a_class_that_transformers_lacks_is_refused(tmp_path):
    FAMILIES["llama"].net().save_pretrained(tmp_path)
    text = json.dumps(records.read(tmp_path / "sortednet.json")).replace("LlamaForCausalLM", "LlamaForNothing")
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt", "sortednet": text})
    with pytest.raises(
        CheckpointError, match=r"holds a LlamaForNothing, which transformers .* does not have\. Update it"
    ):
        sn.load(tmp_path)


# --- families that are not in the table -----------------------------------------------------------------------------


UNLISTED = {
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**{**SIZES, **GROUPS, **TOKENS})),
    "stablelm": lambda: hf.StableLmForCausalLM(hf.StableLmConfig(**{**SIZES, **GROUPS, **TOKENS})),
    "cohere": lambda: hf.CohereForCausalLM(hf.CohereConfig(**{**SIZES, **GROUPS, **TOKENS})),
    "granite": lambda: hf.GraniteForCausalLM(hf.GraniteConfig(**{**SIZES, **GROUPS, **TOKENS})),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**{**SIZES, **HEADS, **TOKENS})),
    "electra": lambda: hf.ElectraForSequenceClassification(
        hf.ElectraConfig(**{**SIZES, **HEADS, "embedding_size": 16})
    ),
}


@pytest.mark.parametrize("name", UNLISTED)
def test_corner_views_suffice_for_the_feed_forward_width_of_unlisted_families(name):
    net = sort(UNLISTED[name](), num_hidden_layers=[1, 2], intermediate_size=[10, 24]).eval()
    assert_zeroed(net, "intermediate_size=10")
    for setting in net.space:
        assert torch.equal(net.at(setting)(input_ids=IDS).logits, net.extract(setting)(input_ids=IDS).logits)


@pytest.mark.parametrize("name", UNLISTED)
def test_fewer_heads_of_an_unlisted_family_are_refused_where_they_would_be_larger_ones(name):
    with pytest.raises(
        SpaceError, match=r"num_attention_heads=2 cannot be had from .*fewer heads would be larger ones\. Sort"
    ):
        sort(UNLISTED[name](), num_attention_heads=[2, 4])


def test_heads_that_shrink_with_the_hidden_size_go_as_the_error_says():
    space = sn.Space([{"hidden_size": 16, "num_attention_heads": 2}, {"hidden_size": 32, "num_attention_heads": 4}])
    net = sn.SortedNet.from_pretrained(UNLISTED["olmo2"](), space=space)
    config = net.extract("hidden_size=16,num_attention_heads=2").config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)


BLOOM = {"vocab_size": 40, "hidden_size": 32, **TOKENS}


@pytest.mark.parametrize(
    ("make", "supports", "error", "text"),
    [
        (UNLISTED["electra"], {"hidden_size": [16, 32]}, BuildError,
         r"At hidden_size=16 the model has no electra\.embeddings_project\.weight, and only blocks at the end of a "
         r"list may fall away"),
        (lambda: hf.SwinForImageClassification(
            hf.SwinConfig(image_size=16, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 4], window_size=2)
         ), {"embed_dim": [8, 16]}, BuildError,
         r"embed_dim=8 changes the size of the heads of swin\.encoder.* from 8 to 4, so that a corner would mix them"),
        (lambda: hf.BartForConditionalGeneration(hf.BartConfig(
            vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8,
            encoder_attention_heads=4, decoder_attention_heads=4, max_position_embeddings=16, **TOKENS,
         )), {"d_model": [16, 32]}, BuildError,
         r"d_model=16 changes the size of the heads of model\.decoder.* from 8 to 4.*Sort d_model together with"),
    ],
)  # fmt: skip
def test_what_would_be_cut_wrong_in_an_unlisted_family_is_named(make, supports, error, text):
    with pytest.raises(error, match=text):
        sort(make(), **supports)


def llama4():
    shape = {**SIZES, **GROUPS, **TOKENS}
    return hf.Llama4ForCausalLM(hf.Llama4TextConfig(**shape, head_dim=8, intermediate_size_mlp=24, num_local_experts=2))


@pytest.mark.parametrize(
    ("make", "supports", "moved"),
    [
        (lambda: hf.BloomForCausalLM(hf.BloomConfig(n_layer=2, n_head=4, **BLOOM)), {"hidden_size": [16, 32]}, {}),
        (lambda: hf.MptForCausalLM(hf.MptConfig(vocab_size=40, d_model=32, n_heads=4, n_layers=2)),
         {"d_model": [16, 32]}, {"transformer.blocks.*.attn.Wqkv.weight[0]": "2/4 x 8 + 2/4 x 8 + 2/4 x 8"}),
        (lambda: hf.FalconForCausalLM(
            hf.FalconConfig(num_hidden_layers=2, num_attention_heads=4, ffn_hidden_size=24, **BLOOM)
         ), {"hidden_size": [16, 32]},
         {"transformer.h.*.self_attention.query_key_value.weight[0]": "(2/4 + 1 + 1) x 8"}),
        (lambda: hf.GPTBigCodeForCausalLM(
            hf.GPTBigCodeConfig(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=16, n_inner=24, **TOKENS)
         ), {"n_embd": [16, 32]},
         {f"transformer.h.*.attn.c_attn.{name}[0]": "2/4 x 8 + 8 + 8" for name in ("weight", "bias")}),
        (lambda: hf.ModernBertForMaskedLM(
            hf.ModernBertConfig(**{**SIZES, **HEADS, **TOKENS}, cls_token_id=1, sep_token_id=2)
         ), {"intermediate_size": [10, 24]}, {"model.layers.*.mlp.Wi.weight[0]": "10/24 + 10/24"}),
        (mixtral, {"intermediate_size": [12, 24]}, {"model.layers.*.mlp.experts.gate_up_proj[1]": "12/24 + 12/24"}),
        (llama4, {"intermediate_size": [10, 24]},
         {"model.layers.*.feed_forward.experts.gate_up_proj[2]": "10/24 + 10/24"}),
    ],
)  # fmt: skip
def test_fused_parameters_of_unlisted_families_are_cut_as_the_models_run(make, supports, moved):
    net = sort(make(), **supports)
    shown = dict(re.findall(r"^  (\S+\[\d\]): (.*?) \([a-z]", str(net.cuts), re.MULTILINE))
    assert shown == moved


# --- saving and opening ---------------------------------------------------------------------------------------------


def test_invariant_7_saved_networks_open_where_sortednet_is_not_installed(tmp_path):
    expected = {}
    for case in PRETRAINED:
        if case.readout == "own":
            net = case.net().eval()
            net.save_pretrained(tmp_path / case.name)
            with torch.no_grad():
                expected[case.name] = (type(net.full).__name__, dict(case.data), case.run(net))
    torch.save(expected, tmp_path / "expected.pt")
    script = """
import sys
sys.modules["sortednet"] = None
import torch, transformers
torch.set_num_threads(1)
folder = sys.argv[1]
for name, (kind, data, logits) in torch.load(f"{folder}/expected.pt").items():
    model = getattr(transformers, kind).from_pretrained(f"{folder}/{name}").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**data).logits, logits, rtol=0, atol=1e-6)
    print(name)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(expected)


AUTO = {
    "SequenceClassification": hf.AutoModelForSequenceClassification,
    "ImageClassification": hf.AutoModelForImageClassification,
    "MaskedLM": hf.AutoModelForMaskedLM,
    "ConditionalGeneration": hf.AutoModelForSeq2SeqLM,
    "CausalLM": hf.AutoModelForCausalLM,
    "LMHeadModel": hf.AutoModelForCausalLM,
}


@pytest.mark.parametrize("case", PRETRAINED, ids=[case.name for case in PRETRAINED])
def test_extracted_folders_open_by_plain_transformers_or_saving_says_why_not(case, tmp_path):
    net = case.net().eval()
    auto = next(kind for name, kind in AUTO.items() if case.model_class.__name__.endswith(name))
    for place, (text, setting) in enumerate(zip(case.settings, case.chosen(), strict=True)):
        extracted, folder = net.extract(setting), tmp_path / str(place)
        if text in case.narrows:
            # The config cannot say how many heads, or blocks, are left.
            with pytest.warns(
                UserWarning, match=r"does not open what is saved here: its config says that .* has the sh"
            ):
                extracted.save_pretrained(folder)
            with pytest.raises(RuntimeError, match=r"mismatch|size"):
                case.model_class.from_pretrained(folder)
            continue
        said = nullcontext() if case.readout == "own" else pytest.warns(UserWarning, match="the readout 'mean'")
        with said:
            extracted.save_pretrained(folder)
        opened = case.opened(folder)
        torch.testing.assert_close(case.run(opened), case.run(extracted), rtol=0, atol=max(1e-6, case.opened_tolerance))
        assert type(auto.from_pretrained(folder)) is case.model_class


@pytest.mark.parametrize("name", ["llama_tied", "qwen2_tied", "gemma2", "gpt2", "opt", "bert_masked", "t5"])
def test_tied_weights_are_stored_once(name, tmp_path):
    net = FAMILIES[name].net()
    net.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    names: dict[int, list[str]] = {}
    for key, parameter in net.full.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(key)
    tied = [keys for keys in names.values() if len(keys) > 1]
    assert tied
    assert all(len(stored.keys() & set(keys)) == 1 for keys in names.values())
    assert sum(one.numel() for one in stored.values()) == sum(p.numel() for p in net.full.parameters()) + sum(
        buffer.numel()
        for key, buffer in net.full.state_dict().items()
        if key not in dict(net.full.named_parameters(remove_duplicate=False))
    )


def test_untied_weights_are_stored_each(tmp_path):
    FAMILIES["llama"].net().save_pretrained(tmp_path)
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= load_file(tmp_path / "model.safetensors").keys()


def test_a_saved_network_keeps_its_way_of_reading_and_generating(tmp_path):
    net = FAMILIES["bert_mean"].net()
    with pytest.warns(UserWarning, match="the readout 'mean'"):
        net.save_pretrained(tmp_path / "mean")
    assert sn.load(tmp_path / "mean").builder.readout.name == "mean"
    net = FAMILIES["llama"].net()
    net.full.generation_config.max_new_tokens = 3
    net.save_pretrained(tmp_path / "llama")
    assert hf.LlamaForCausalLM.from_pretrained(tmp_path / "llama").generation_config.max_new_tokens == 3
    assert sn.load(tmp_path / "llama").head == net.head


def test_a_model_of_another_type_keeps_it(tmp_path):
    net = sort(llama().to(torch.bfloat16), num_hidden_layers=[1, 2])
    net.save_pretrained(tmp_path)
    assert hf.LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    assert sn.load(tmp_path, at="num_hidden_layers=1").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "opt", "t5"])
def test_sub_models_generate(name):
    case = FAMILIES[name]
    net = case.net().eval()
    if name == "t5":
        net.full.generation_config.decoder_start_token_id = 0
    how = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    # transformers itself cannot generate by a T5 whose decoder is deeper than its encoder.
    for setting in case.chosen()[: 1 if name == "t5" else 2]:
        one, other = (
            model.generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), decoder_start_token_id=0, **how)
            if name == "t5"
            else model.generate(IDS[:1], attention_mask=torch.ones_like(IDS[:1]), **how)
            for model in (net.submodel(setting), net.extract(setting))
        )
        assert torch.equal(one, other)


def test_a_network_answers_for_its_model():
    net = FAMILIES["llama"].net()
    assert net.config is net.full.config
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        net.nonsense  # noqa: B018
    assert net.extract().config.num_hidden_layers == 2
    assert net.extract().config is not net.config


def test_an_embedding_smaller_than_the_hidden_size_stays_as_it_is():
    net = FAMILIES["opt_projected"].net()
    assert net.extract(hidden_size=16).config.word_embed_proj_dim == 12
    assert FAMILIES["opt"].net().extract(hidden_size=16).config.word_embed_proj_dim == 16


def test_the_width_of_deberta_s_pooler_follows():
    config = hf.DebertaV2Config(**{**SIZES, **HEADS, "max_position_embeddings": 16})
    net = sort(hf.DebertaV2ForSequenceClassification(config), hidden_size=[16, 32]).eval()
    assert net.at(hidden_size=16)(input_ids=IDS).logits.shape == (2, 2)


@pytest.mark.parametrize("case", PRETRAINED, ids=lambda case: case.name)
def test_every_traced_cut_is_the_tables(case):
    net = case.net()
    assert net.cuts.known
    for setting in {net.space[0], net.space[len(net.space) // 2]} - {net.space.full}:
        skeleton = net.skeleton(setting)
        expected = cuts_by_shape(net.full, skeleton.module, net.builder.layouts(net.full))
        for slot in (*skeleton.parameters, *skeleton.buffers):
            assert slot.cut == expected[slot.path], (setting, slot.path)
