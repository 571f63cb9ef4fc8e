import copy
from functools import partial

import pytest
import torch
import transformers as hf
from torch import nn
from torch.nn import functional

import sortednet as sn
from sortednet.errors import BuildError, ConfigError, DataError, SettingError, TrainingError
from sortednet.models import MLP, PreResNet, Transformer
from sortednet.training import importance
from sortednet.training.importance import reorder, score

from ..contracts.cases import CASES

VOCABULARY = 40
LLAMA = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2}
IDS = torch.randint(0, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
TEXT = {"input_ids": IDS}
IMAGE = {"pixel_values": torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))}
FEED_FORWARD, HEADS, HIDDEN = [6, 24], [2, 4], [8, 16]

# The class, its config, the dimensions, a batch, and the units of each dimension, group by group.
FAMILIES = {
    "llama": (
        hf.LlamaForCausalLM,
        hf.LlamaConfig(**LLAMA, **ATTENTION, head_dim=6, tie_word_embeddings=True),
        {"intermediate_size": FEED_FORWARD, "num_attention_heads": HEADS, "hidden_size": HIDDEN},
        TEXT,
        [[24, 24], [2, 2], [16]],
    ),
    "phi3": (
        hf.Phi3ForCausalLM,
        hf.Phi3Config(**LLAMA, **ATTENTION, pad_token_id=0, bos_token_id=None, eos_token_id=None),
        {"intermediate_size": FEED_FORWARD, "num_attention_heads": HEADS, "hidden_size": HIDDEN},
        TEXT,
        [[24, 24], [2, 2], [16]],
    ),
    "gpt2": (
        hf.GPT2LMHeadModel,
        hf.GPT2Config(
            vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=4, n_positions=9, bos_token_id=None, eos_token_id=None
        ),
        {"n_inner": [16, 64], "num_attention_heads": HEADS, "hidden_size": HIDDEN},
        TEXT,
        [[64, 64], [4, 4], [16]],
    ),
    "bert": (
        hf.BertForSequenceClassification,
        hf.BertConfig(**LLAMA, num_attention_heads=4),
        {"intermediate_size": FEED_FORWARD, "num_attention_heads": HEADS, "hidden_size": HIDDEN},
        TEXT,
        [[24, 24], [4, 4], [16, 16]],  # the pooler's outputs are units of their own
    ),
    "bert_heads_with_hidden": (
        hf.BertForSequenceClassification,
        hf.BertConfig(**LLAMA, num_attention_heads=4),
        {"hidden_size": HIDDEN},
        TEXT,
        [[16, 4, 4, 16]],
    ),
    "opt": (
        hf.OPTForCausalLM,
        hf.OPTConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=9,
        ),
        {"ffn_dim": FEED_FORWARD, "num_attention_heads": HEADS},
        TEXT,
        [[24, 24], [4, 4]],
    ),
    "distilbert": (
        hf.DistilBertForSequenceClassification,
        hf.DistilBertConfig(
            vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=4, max_position_embeddings=9
        ),
        {"hidden_dim": FEED_FORWARD, "num_attention_heads": HEADS},
        TEXT,
        [[24, 24], [4, 4]],
    ),
    "t5": (
        hf.T5ForConditionalGeneration,
        hf.T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=6, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0
        ),
        {"d_ff": FEED_FORWARD, "num_heads": HEADS, "d_model": HIDDEN},
        {**TEXT, "decoder_input_ids": IDS},
        # Layers that add one table of position biases share the order of their heads: the encoder's, and the decoder's.
        [[24] * 4, [4, 4, 4, 4], [16]],
    ),
    "vit": (
        hf.ViTForImageClassification,
        hf.ViTConfig(
            image_size=8,
            patch_size=4,
            num_channels=1,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
        ),
        {"intermediate_size": FEED_FORWARD, "num_attention_heads": HEADS, "hidden_size": HIDDEN},
        IMAGE,
        [[24, 24], [4, 4], [16]],
    ),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def spread(model):
    """Move the weights far from where they start, so that every unit matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pretrained(name, dtype=torch.float64):
    model_class, config, supports, batch, counts = FAMILIES[name]
    model = spread(model_class(copy.deepcopy(config))).to(dtype)
    batch = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}
    return sn.SortedNet.from_pretrained(model, **supports, readout="own"), batch, list(supports), counts


def square(output, _):
    return output.logits.square().mean()


def mlp(width=(2, 4), depth=1, inputs=3, **options):
    return sn.SortedNet(partial(MLP, inputs=inputs, classes=2), sn.Space(depth=[depth], width=list(width)), **options)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_reordering_changes_nothing_about_the_full_model(name, dtype):
    net, batch, dimensions, counts = pretrained(name, dtype)
    before = {key: value.clone() for key, value in net.full.state_dict().items()}
    with torch.no_grad():
        reference = net.full(**batch).logits
    done = reorder(net, [batch], square)
    assert [[len(one.order) for one in done if one.dimension == dimension] for dimension in dimensions] == counts
    # Hugging Face computes RMS norms in float32, whose sums over the hidden size come in another order.
    exact = dtype == torch.float64 and name not in ("llama", "phi3", "t5")
    with torch.no_grad():
        torch.testing.assert_close(net.full(**batch).logits, reference, rtol=0, atol=1e-10 if exact else 1e-5)
    moved = {key for key, value in net.full.state_dict().items() if not torch.equal(value, before[key])}
    named = {name for one in done for name in one.parameters if (one.order.diff() < 0).any()}
    assert moved == named & before.keys()


@pytest.mark.parametrize("name", ["llama", "phi3", "t5"])
def test_reordering_heads_and_feed_forward_units_is_exact_in_float64(name):
    net, batch, dimensions, _ = pretrained(name)
    with torch.no_grad():
        reference = net.full(**batch).logits
        reorder(net, [batch], square, dimensions=dimensions[:2], kind="magnitude")
        torch.testing.assert_close(net.full(**batch).logits, reference, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", CASES[:-1], ids=[case.name for case in CASES[:-1]])
def test_reordering_changes_nothing_about_any_family_of_the_contracts(case):
    net = case.net().double().eval()
    inputs = case.data()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with torch.no_grad():
        for buffer in net.full.buffers():
            buffer.add_(torch.rand(buffer.shape)) if buffer.is_floating_point() else None
        reference = net.full(inputs)
    done = reorder(net, [(inputs, None)], lambda output, _: output.square().mean())
    assert any((one.order.diff() < 0).any() for one in done)
    with torch.no_grad():
        torch.testing.assert_close(net.full(inputs), reference, rtol=0, atol=1e-10)


def test_the_corner_holds_the_units_of_the_highest_scores():
    net = mlp((3, 8))
    before = copy.deepcopy(net.full.state_dict())
    (done,) = reorder(net, [(torch.randn(9, 3), torch.zeros(9).long())], functional.cross_entropy)
    kept = done.scores.topk(3).indices
    assert torch.equal(done.order[:3], kept)
    small = net.extract(width=3)
    assert torch.equal(small.head.weight, before["head.weight"][:, kept])
    assert torch.equal(small.hidden[0].weight, before["hidden.0.weight"][kept])


def test_after_reordering_scores_come_in_falling_order_and_nothing_is_left_to_do():
    net, batch, _, _ = pretrained("gpt2")
    done = reorder(net, [batch], square)
    again = score(net, [batch], square)
    for first, second in zip(done, again, strict=True):
        torch.testing.assert_close(second.scores, first.scores[first.order])
        assert second.order.tolist() == list(range(len(second.order)))


@pytest.mark.parametrize("kind", ["taylor", "activation", "magnitude"])
def test_planted_units_reach_the_small_sub_model_and_lower_its_loss(kind):
    net = mlp((2, 16))
    with torch.no_grad():
        net.full.head.weight.mul_(0.01)
        net.full.head.weight[:, -2:] = torch.tensor([[2.0, -2.0], [-2.0, 2.0]])
        net.full.hidden[0].weight[-2:] = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    inputs = torch.randn(64, 3)
    batches = [(x, (x[:, 0] < 0).long()) for x in inputs.split(8)]
    targets = (inputs[:, 0] < 0).long()
    with torch.no_grad():
        before = functional.cross_entropy(net.at(width=2)(inputs), targets)
        (done,) = reorder(net, iter(batches), functional.cross_entropy, kind=kind)
        after = functional.cross_entropy(net.at(width=2)(inputs), targets)
    assert set(done.order[:2].tolist()) == {14, 15}
    assert after < 0.5 * before


def test_taylor_is_the_change_of_a_linear_loss_without_the_unit():
    net = mlp((2, 5)).double()
    batches = [(torch.randn(4, 3).double(), torch.randn(4, 2).double()) for _ in range(3)]
    (found,) = score(net, batches, lambda output, target: (output * target).sum())
    expected = torch.zeros(5, dtype=torch.float64)
    for unit in range(5):
        without = copy.deepcopy(net.full)
        without.head.weight.data[:, unit] = 0
        for x, target in batches:
            expected[unit] += ((net.full(x) - without(x)) * target).sum().abs().item()
    torch.testing.assert_close(found.scores, expected)


def test_taylor_is_activation_times_gradient_of_each_group_of_heads():
    net, batch, _, _ = pretrained("llama")
    found = score(net, [batch], square, dimensions="num_attention_heads")
    for layer, one in enumerate(found):
        scale = torch.ones(4, dtype=torch.float64, requires_grad=True)
        reader = net.full.model.layers[layer].self_attn.o_proj
        hook = reader.register_forward_pre_hook(lambda _, given, by=scale: (given[0] * by.repeat_interleave(6),))
        square(net.full(**batch), None).backward()
        hook.remove()
        torch.testing.assert_close(one.scores, scale.grad.view(2, 2).sum(1).abs())


def test_taylor_of_small_batches_tells_what_cancels_in_a_large_one():
    net = mlp((1, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    x, target = torch.ones(2, 3), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss_fn = lambda output, target: (output * target).sum()  # noqa: E731
    assert score(net, [(x, target)], loss_fn)[0].scores.tolist() == [0.0, 0.0]
    # Each unit is 1 + 1 + 1 + 1 = 4, and is read with weight 1.
    apart = [(x[:1], target[:1]), (x[1:], target[1:])]
    assert score(net, apart, loss_fn)[0].scores.tolist() == [8.0, 8.0]


def test_activation_is_its_mean_times_the_norm_of_what_reads_it():
    net = mlp((1, 2), inputs=2)
    with torch.no_grad():
        net.full.hidden[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        net.full.hidden[0].bias.zero_()
        net.full.head.weight.copy_(torch.tensor([[3.0, 1.0], [4.0, 0.0]]))
    # ReLU leaves (1, 2), (0, 4) and (2, 0): means 1 and 2 over three examples in two batches; norms 5 and 1.
    first = (torch.tensor([[1.0, 1.0], [-1.0, 2.0]]), None)
    assert score(net, [first, (torch.tensor([[2.0, -1.0]]), None)], kind="activation")[0].scores.tolist() == [5.0, 2.0]


def test_activation_of_channels_is_a_mean_over_examples_and_pixels():
    net = sn.SortedNet(partial(PreResNet, depth=1, stages=1, channels=1), sn.Space(width=[2, 4])).double()
    images = torch.randn(3, 1, 6, 6).double()
    inside = score(net, [(images, None)], kind="activation")[1]
    full = net.full.eval()
    block = full.stages[0][0]
    read = torch.relu(block.norm2(block.conv1(torch.relu(block.norm1(full.stem(images))))))
    norms = block.conv2.weight.square().sum((0, 2, 3)).sqrt()
    torch.testing.assert_close(inside.scores, (read.mean((0, 2, 3)) * norms).detach())


def test_magnitude_of_a_head_is_the_norm_of_all_weights_that_read_it():
    net, batch, _, _ = pretrained("gpt2")
    found = score(net, [batch], dimensions="num_attention_heads", kind="magnitude")
    weight = net.full.transformer.h[1].attn.c_proj.weight.detach()  # (4 heads x 4, hidden)
    torch.testing.assert_close(found[1].scores, weight.view(4, -1).norm(dim=1))


@pytest.mark.parametrize("kind", ["taylor", "magnitude"])
def test_units_that_no_known_layer_reads_are_scored_by_all_their_weights(kind):
    class Bare(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.up, self.down = nn.Parameter(torch.ones(3, width)), nn.Parameter(torch.ones(width))

        def forward(self, x):
            return (x @ self.up) @ self.down

    net = sn.SortedNet(Bare, sn.Space(width=[1, 2]))
    with torch.no_grad():
        net.full.down[1] = 3.0
    (found,) = score(net, [(torch.ones(1, 3), None)], lambda output, _: output.sum(), kind=kind)
    # Up and down each account for the whole output of a unit, 3 and 9; the squares of the weights are 4 and 12.
    assert found.scores.tolist() == ([6.0, 18.0] if kind == "taylor" else [2.0, 12.0**0.5])
    with pytest.raises(BuildError, match=r"kind='activation' cannot score width.*Choose kind='taylor'"):
        score(net, [(torch.ones(1, 3), None)], kind="activation")


def test_weights_outside_an_axis_of_several_blocks_stay():
    net, batch, _, _ = pretrained("gpt2")
    before = net.full.transformer.h[0].attn.c_attn.weight.detach().clone()
    done = reorder(net, [batch], square, dimensions=["num_attention_heads"])
    heads = before.view(16, 3, 4, 4)[:, :, done[0].order].reshape(16, 48)
    assert torch.equal(net.full.transformer.h[0].attn.c_attn.weight, heads)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_tied_embeddings_stay_tied_and_move_once(name):
    net, batch, dimensions, _ = pretrained(name)
    embedding = net.full.get_input_embeddings().weight
    storage, before = embedding.data_ptr(), embedding.detach().clone()
    (done,) = reorder(net, [batch], square, dimensions=dimensions[2])
    assert net.full.get_output_embeddings().weight is embedding
    assert embedding.data_ptr() == storage
    assert torch.equal(embedding, before[:, done.order])


def test_scoring_leaves_the_network_as_it_was():
    net = sn.SortedNet(partial(PreResNet, depth=1, stages=1, channels=1), sn.Space(width=[2, 4])).train()
    net.full.stem.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for kind in ("taylor", "activation", "magnitude"):
        score(net, [(torch.randn(2, 1, 6, 6), torch.zeros(2).long())], functional.cross_entropy, kind=kind)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.full.modules())
    assert not net.full.stem.weight.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())


def test_sub_models_bound_before_follow():
    net = mlp((2, 6))
    x = torch.randn(5, 3)
    bound = net.submodel(width=2)
    reorder(net, [(x, torch.zeros(5).long())], functional.cross_entropy)
    with torch.no_grad():
        assert torch.equal(bound(x), net.extract(width=2)(x))


def test_private_tensors_are_read_anew_from_their_corners():
    net = mlp((2, 3, 6), private="head.*")
    batch = (torch.randn(5, 3), torch.zeros(5).long())
    reorder(net, [batch], functional.cross_entropy)
    for (text, name), own in net.private.tensors().items():
        corner = net.full.state_dict()[name]
        assert torch.equal(own, corner[..., : sn.Setting.parse(text)["width"]] if name == "head.weight" else corner)


def test_trained_private_tensors_are_refused_before_anything_changes():
    net = mlp((2, 6), private="head.*")
    with torch.no_grad():
        next(iter(net.private.tensors().values())).add_(1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(BuildError, match=r"head.weight of the sub-model depth=1,width=2 is private.*before training"):
        reorder(net, [(torch.randn(5, 3), torch.zeros(5).long())], functional.cross_entropy)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_an_order_that_changes_the_output_is_undone(monkeypatch):
    net = mlp((2, 6))
    before = copy.deepcopy(net.state_dict())
    changes = iter([0.0, 0.0, 0.5])
    monkeypatch.setattr(importance.Outputs, "change", lambda self: next(changes))
    with pytest.raises(BuildError, match=r"order of \['width'\] changed.* by 5.0e-01 .* 3.5e-04 is allowed.*undone"):
        reorder(net, [(torch.randn(5, 3), torch.zeros(5).long())], functional.cross_entropy)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_bfloat16_is_scored_in_float32():
    net = mlp((2, 6)).bfloat16()
    batch = (torch.randn(5, 3).bfloat16(), torch.zeros(5).long())
    (done,) = reorder(net, [batch], lambda output, target: functional.cross_entropy(output.float(), target))
    assert done.scores.dtype == torch.float64
    assert net.full.head.weight.dtype == torch.bfloat16


BATCH = (torch.ones(5, 3), torch.zeros(5).long())


@pytest.mark.parametrize(
    ("batches", "options", "error", "text"),
    [
        ([], {}, DataError, r"batches=\[\] holds no batch"),
        (torch.ones(5, 3), {}, DataError, r"holds no batch to score units on. Give a list or a loader"),
        ([torch.ones(5, 3)], {}, DataError, r"holds no batch"),
        ([BATCH], {"kind": "fisher"}, ConfigError, r"kind='fisher' is unknown. Choose one of \['taylor', 'activation'"),
        ([BATCH], {"loss_fn": None}, ConfigError, r"kind='taylor' needs a loss. Give loss_fn="),
        ([BATCH], {"dimensions": "heads"}, SettingError, r"'heads' is none of the dimensions \['depth', 'width'\]"),
        ([BATCH], {"dimensions": ["depth"]}, SettingError, r"depth has no units to order: 1 is its one value"),
        ([BATCH], {"units": {"width": 4}}, ConfigError, r"units=\{'width': 4\} do not part"),
        ([BATCH], {"loss_fn": lambda output, _: output.detach().sum()}, DataError, r"no single number that depends"),
        ([BATCH], {"loss_fn": lambda output, _: output}, DataError, r"no single number that depends on the weights"),
        ([BATCH], {"loss_fn": lambda output, _: output.sum() * torch.inf}, TrainingError, r"The loss is -?(inf|nan)"),
        ([BATCH], {"loss_fn": lambda o, _: (o * 0).sum().sqrt()}, TrainingError, r"scores of width.*are not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused_and_changes_nothing(batches, options, error, text):
    net = mlp((2, 6))
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(error, match=text):
        reorder(net, batches, **{"loss_fn": functional.cross_entropy, **options})
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_loss_that_sees_no_unit_is_refused():
    class Two(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.direct, self.body = nn.Linear(3, 1), MLP(1, width, inputs=3, classes=2)

        def forward(self, x):
            return self.direct(x), self.body(x)

    net = sn.SortedNet(Two, sn.Space(width=[2, 4]))
    with pytest.raises(DataError, match="The loss depends on none of the weights to score"):
        score(net, [BATCH], lambda output, _: output[0].sum())


def test_wrapped_and_sharded_networks_are_refused():
    net = mlp((2, 6))
    with pytest.raises(BuildError, match=r"Sequential is no SortedNet. Give the SortedNet itself"):
        score(nn.Sequential(net), [BATCH], functional.cross_entropy)
    net.full.head.weight.device_mesh = object()
    with pytest.raises(BuildError, match=r"sharded over processes.* Order them before fully_shard"):
        score(net, [BATCH], functional.cross_entropy)


def test_sorted_training_goes_on_from_a_reordered_network():
    build = partial(Transformer, depth=2, head_size=4, vocabulary=VOCABULARY, positions=8, classes=2, causal=False)
    net = sn.SortedNet(build, sn.Space(width=[4, 16], heads=[1, 3], hidden=[6, 12]))
    reorder(net, [(IDS, torch.tensor([0, 1]))], functional.cross_entropy)
    net.at(width=4, heads=1, hidden=6)(IDS).sum().backward()
    gradient = net.full.blocks[0].up.weight.grad
    assert gradient[:4, :6].abs().sum() > 0
    assert gradient[4:].abs().sum() == gradient[:, 6:].abs().sum() == 0
