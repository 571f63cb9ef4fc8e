"""What a config says of single layers follows the depth."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transformers as hf

import sortednet as sn
from sortednet.huggingface.families.layers import follow_depth

from ...contracts.pretrained_cases import GROUPS, HEADS, IDS, SIZES, TOKENS

DEEP = {**SIZES, "num_hidden_layers": 4}
VISION = {**DEEP, **HEADS, "image_size": 16, "patch_size": 8}
MOE = {**DEEP, **GROUPS, **TOKENS, "moe_intermediate_size": 8, "num_experts": 2, "num_experts_per_tok": 1}
PIXELS = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
CASES = {
    "dinov2": ("Dinov2ForImageClassification", "Dinov2Config", VISION, PIXELS),
    "dinov2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", VISION, PIXELS),
    "dinov3": ("DINOv3ViTModel", "DINOv3ViTConfig", VISION, PIXELS),
    "beit": ("BeitForImageClassification", "BeitConfig", VISION, PIXELS),
    "vitdet": ("VitDetModel", "VitDetConfig", {**VISION, "window_block_indices": [0, 3]}, PIXELS),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", {**DEEP, **GROUPS, **TOKENS}, {"input_ids": IDS}),
    "llama4": ("Llama4ForCausalLM", "Llama4TextConfig",
               {**DEEP, **GROUPS, **TOKENS, "num_local_experts": 2, "intermediate_size_mlp": 12, "head_dim": 8},
               {"input_ids": IDS}),
    "exaone moe": ("ExaoneMoeForCausalLM", "ExaoneMoeConfig", MOE, {"input_ids": IDS}),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config",
             {**DEEP, **GROUPS, **TOKENS, "full_attn_idxs": [0, 2], "block_multiple_of": 8}, {"input_ids": IDS}),
}  # fmt: skip


def outputs(model, inputs):
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.parametrize("name", CASES)
def test_an_extracted_folder_opens_with_its_layers_own_entries(name, tmp_path):
    kind, config, sizes, inputs = CASES[name]
    if not hasattr(hf, kind):
        pytest.skip(f"this version of transformers has no {kind}")
    torch.manual_seed(0)
    full = getattr(hf, kind)(getattr(hf, config)(**sizes)).eval()
    net = sn.SortedNet.from_pretrained(full, num_hidden_layers=[1, 3, 4])
    for depth in (1, 3):
        model, folder = net.extract(num_hidden_layers=depth), tmp_path / str(depth)
        model.save_pretrained(folder)
        opened = type(model).from_pretrained(folder).eval()
        assert torch.equal(outputs(opened, inputs), outputs(model, inputs))
        assert type(hf.AutoModel.from_pretrained(folder).config) is type(model.config)


@pytest.mark.parametrize(
    ("given", "depth", "kept"), [(None, 2, [2]), ([1, 4], 3, [1, 3]), ([1, 2, 4], 2, [1, 2]), ([3], 2, [2])]
)
def test_a_backbone_returns_the_stages_that_there_are_and_its_last(given, depth, kept):
    full = hf.Dinov2Backbone(hf.Dinov2Config(**VISION, out_indices=given)).eval()
    model = sn.SortedNet.from_pretrained(full, num_hidden_layers=[1, 2, 3, 4]).extract(num_hidden_layers=depth)
    assert model.config.out_indices == kept
    assert model.config.out_features == [f"stage{one}" for one in kept]
    with torch.no_grad():
        assert len(model(**PIXELS).feature_maps) == len(kept)


class Config:
    """Says of its layers what configs say."""

    def __init__(self, depth=8, **given):
        self.depth = depth
        self.kinds = ["window", "full"] * (depth // 2) + ["window"] * (depth % 2)
        self.flags = [1, 0] * (depth // 2) + [1] * (depth % 2)
        self.names = ["stem", *(f"layer{one}" for one in range(depth))]
        self.chosen = list(range(1, depth))
        self.pair = [1, 2]
        self.__dict__.update(given)


@pytest.mark.parametrize(
    ("name", "held", "kept"),
    [
        ("kinds", ["full", "full", "window", "full"], ["full", "full"]),
        ("flags", [0, 1, 1, 1], [0, 1]),
        ("names", ["root", "a", "b", "c", "d"], ["root", "a", "b"]),
        ("chosen", [0, 1, 3], [0, 1]),
        ("chosen", [], []),
        ("chosen", None, None),
        ("pair", [4, 2, 1, 3], [4, 2, 1, 3]),
    ],
    ids=["entries", "numbers as entries", "a stem", "places", "no places", "nothing", "no list by layer"],
)
def test_fields_follow_as_they_do_in_a_config_of_the_class(name, held, kept):
    full, part = (Config(4, **{name: held}) for _ in range(2))
    follow_depth(full, part, "depth", 2, ())
    assert getattr(part, name) == kept


def test_fields_follow_by_name_where_the_class_does_not_tell():
    full, part = (SimpleNamespace(depth=3, kinds=["a", "b", "c"], others=["d", "e", "f"]) for _ in range(2))
    follow_depth(full, part, "depth", 2, ["kinds"])
    assert (part.kinds, part.others) == (["a", "b"], ["d", "e", "f"])


def test_a_class_that_has_no_config_of_its_own_is_asked_once():
    asked = []

    class Needy(SimpleNamespace):
        def __init__(self, **given):
            asked.append(given)
            if not given.get("kinds"):
                raise ValueError("give kinds")
            super().__init__(**given)

    make = partial(Needy, depth=2, kinds=["a", "b"])
    full = make()
    for _ in range(2):
        follow_depth(full, make(), "depth", 1, ())
    assert asked.count({}) == 1
