import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sortednet.errors import ConfigError, DataError, SettingError
from sortednet.evaluation.comparison import compare_submodels
from sortednet.network.sorted_net import SortedNet
from sortednet.space import Space

DEPTHS = Space(depth=[1, 2])


class Classifier(nn.Module):
    """Gives the logits and the states of its last row, whatever the input."""

    def __init__(self, depth):
        super().__init__()
        self.rows = nn.ParameterList([torch.zeros(2) for _ in range(depth)])

    def forward(self, x):
        return self.rows[-1].expand(len(x), -1)


class Bigram(nn.Module):
    """Predicts the next token from the current one: five tokens, and a table of logits for each depth."""

    def __init__(self, depth, vocabulary=5):
        super().__init__()
        drawn = torch.randn(depth, vocabulary, vocabulary, generator=torch.Generator().manual_seed(0))
        self.tables = nn.ParameterList(drawn.unbind())

    def forward(self, input_ids, attention_mask=None, labels=None):
        return SimpleNamespace(logits=self.tables[-1][input_ids])


def classifier(*rows):
    net = SortedNet(Classifier, DEPTHS)
    for row, values in zip(net.full.rows, rows, strict=True):
        row.data = torch.tensor(values)
    return net


def bigram():
    return SortedNet(Bigram, DEPTHS)


def divergence(net, token):
    """Return KL(full || depth 1) of the distribution after a token, written as the sum it is."""
    small, full = (table.detach().double()[token].softmax(-1) for table in net.full.tables)
    return float(sum(p * math.log(p / q) for p, q in zip(full.tolist(), small.tolist(), strict=True)))


def after(module, inputs):
    return module(**inputs).logits


def test_thesis_section_5_5_4_kl_of_the_full_model_from_a_sub_model_by_hand():
    net = classifier([math.log(1), math.log(3)], [0.0, 0.0])
    found = compare_submodels(net, [torch.zeros(3, 1)])["kl"]
    # p = (1/2, 1/2) and q = (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3.
    assert found.values[0][0] == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert (found.settings, found.positions, found.counts) == (("depth=1",), (0,), (3,))


def test_thesis_section_5_5_4_cosine_by_hand():
    net = classifier([3.0, 4.0], [4.0, 3.0])
    found = compare_submodels(net, [torch.zeros(3, 1)], measures=("cosine",), hidden=lambda module, x: module(x))
    assert found["cosine"].values[0][0] == pytest.approx(24 / 25)


def test_classes_that_the_reference_excludes_add_nothing():
    net = classifier([-math.inf, 0.0], [-math.inf, 0.0])
    assert compare_submodels(net, [torch.zeros(1, 1)])["kl"].values == ((0.0,),)


def test_classes_that_only_the_sub_model_excludes_make_it_infinite():
    net = classifier([-math.inf, 0.0], [0.0, 0.0])
    assert compare_submodels(net, [torch.zeros(1, 1)])["kl"].values == ((math.inf,),)


def test_a_model_that_diverged_shows_as_nan():
    net = classifier([math.nan, 0.0], [0.0, 0.0])
    assert math.isnan(compare_submodels(net, [torch.zeros(1, 1)])["kl"].values[0][0])


def test_equal_models_have_kl_0_and_cosine_1():
    net, hidden = bigram(), after
    batch = {"input_ids": torch.tensor([[0, 1, 2]])}
    found = compare_submodels(net, [batch], measures=("kl", "cosine"), settings=["depth=2"], hidden=hidden)
    assert found["kl"].values == ((0.0, 0.0, 0.0),)
    assert found["cosine"].values[0] == pytest.approx([1.0] * 3)


def test_each_position_is_the_mean_over_the_examples_that_reach_it():
    net = bigram()
    batches = [
        {"input_ids": torch.tensor([[0, 1, 2]])},
        {"input_ids": torch.tensor([[3, 4, 0, 1]])},
    ]
    found = compare_submodels(net, batches)["kl"]
    at = [divergence(net, token) for token in range(5)]
    expected = [(at[0] + at[3]) / 2, (at[1] + at[4]) / 2, (at[2] + at[0]) / 2, at[1]]
    assert found.counts == (2, 2, 2, 1)
    assert found.values[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    net = bigram()
    ids, short = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[4, 2]])
    apart = compare_submodels(net, [{"input_ids": ids}, {"input_ids": short}])["kl"]
    padding, mask = torch.zeros(1, 2, dtype=torch.long), torch.ones(2, 4, dtype=torch.long)
    padded = torch.cat([padding, short] if side == "left" else [short, padding], 1)
    mask[1, : 2 if side == "left" else None] = 0
    if side == "right":
        mask[1] = torch.tensor([1, 1, 0, 0])
    together = compare_submodels(net, [{"input_ids": torch.cat([ids, padded]), "attention_mask": mask}])["kl"]
    assert together.counts == apart.counts
    assert together.values[0] == pytest.approx(apart.values[0])


def test_positions_start_at_the_output_that_predicts_the_first_answer_token():
    net = bigram()
    labels = torch.tensor([[-100, -100, 2, 3]])
    found = compare_submodels(net, [{"input_ids": torch.tensor([[0, 1, 2, 3]]), "labels": labels}])["kl"]
    assert found.values[0] == pytest.approx([divergence(net, 1), divergence(net, 2)], rel=1e-5)


def test_labels_may_belong_to_their_own_output():
    net = bigram()
    batch = {"input_ids": torch.tensor([[0, 1, 2, 3]]), "labels": torch.tensor([[-100, -100, 2, 3]])}
    found = compare_submodels(net, [batch], shift=False)["kl"]
    assert found.values[0] == pytest.approx([divergence(net, 2), divergence(net, 3)], rel=1e-5)


def test_labels_of_padded_tokens_do_not_count():
    net = bigram()
    batch = {
        "input_ids": torch.tensor([[0, 1, 2, 0]]),
        "labels": torch.tensor([[0, 1, 2, 0]]),
        "attention_mask": torch.tensor([[0, 1, 1, 0]]),
    }
    found = compare_submodels(net, [batch])["kl"]
    assert found.values[0] == pytest.approx([divergence(net, 1)], rel=1e-5)


def test_targets_beside_the_inputs_are_not_shifted():
    net = bigram()
    batch = torch.tensor([[0, 1, 2]]), torch.tensor([[-100, 4, -100]])
    found = compare_submodels(net, [batch])["kl"]
    assert found.values[0] == pytest.approx([divergence(net, 1)], rel=1e-5)


def test_examples_without_an_answer_change_nothing():
    net = bigram()
    ids = torch.tensor([[0, 1, 2], [3, 4, 0]])
    labels = torch.tensor([[-100, 1, 2], [-100, -100, -100]])
    both = compare_submodels(net, [{"input_ids": ids, "labels": labels}])
    assert both == compare_submodels(net, [{"input_ids": ids[:1], "labels": labels[:1]}])


@pytest.mark.parametrize("chunk_tokens", [1, 3, 1000])
def test_chunks_change_nothing(chunk_tokens):
    net = bigram()
    batch = {"input_ids": torch.randint(0, 5, (3, 7), generator=torch.Generator().manual_seed(0))}
    more = {"measures": ("kl", "cosine"), "hidden": after}
    assert compare_submodels(net, [batch], chunk_tokens=chunk_tokens, **more) == compare_submodels(net, [batch], **more)


def test_positions_beyond_the_most_are_left_out():
    net, batch = bigram(), {"input_ids": torch.tensor([[0, 1, 2, 3]])}
    short, long = (compare_submodels(net, [batch], max_positions=most)["kl"] for most in (2, None))
    assert short.values[0] == long.values[0][:2]


def test_half_precision_is_compared_in_float32():
    net = bigram().bfloat16()
    exact = SortedNet(Bigram, DEPTHS, model=copy.deepcopy(net.full).float())
    batch = {"input_ids": torch.tensor([[0, 1, 2, 3]])}
    found, expected = compare_submodels(net, [batch])["kl"], compare_submodels(exact, [batch])["kl"]
    assert found.values == expected.values


def test_two_networks_against_the_full_model_of_the_other():
    net, other = classifier([1.0, 2.0], [3.0, 4.0]), classifier([0.0, 1.0], [0.0, math.log(3)])
    found = compare_submodels(net, [torch.zeros(2, 1)], other=other)["kl"]
    q = torch.tensor([1.0, 2.0]).softmax(0).tolist()
    expected = 0.25 * math.log(0.25 / q[0]) + 0.75 * math.log(0.75 / q[1])
    assert [row[0] for row in found.values] == pytest.approx([expected, expected], abs=1e-6)
    assert (found.settings, found.reference) == (("depth=1", "depth=2"), "full model of the other network")


def test_two_networks_sub_model_by_sub_model():
    net = classifier([1.0, 2.0], [3.0, 5.0])
    other = classifier([1.0, 2.0], [3.0, 4.0])
    found = compare_submodels(net, [torch.zeros(2, 1)], other=other, against="same")["kl"]
    assert found.values[0] == (0.0,)
    assert found.values[1][0] > 0
    assert found.reference == "the other network's sub-model at the same setting"


def test_two_networks_against_one_setting_of_the_other():
    net, other = classifier([1.0, 2.0], [1.0, 2.0]), classifier([1.0, 2.0], [3.0, 9.0])
    found = compare_submodels(net, [torch.zeros(2, 1)], other=other, against="depth=1")["kl"]
    assert found.values == ((0.0,), (0.0,))
    assert found.reference == "depth=1 of the other network"


def test_an_ordinary_module_as_the_reference_keeps_its_mode():
    net = classifier([1.0, 2.0], [3.0, 4.0])
    other = nn.Sequential(Classifier(1), nn.Dropout(0.9))
    other[0].rows[0].data = torch.tensor([1.0, 2.0])
    other[0].eval()
    found = compare_submodels(net, [torch.zeros(2, 1)], other=other)["kl"]
    assert found.values[0] == (0.0,)
    assert [part.training for part in (other, *other)] == [True, False, True]


def test_nothing_of_the_network_changes():
    net = bigram().train()
    before = copy.deepcopy(net.state_dict())
    compare_submodels(net, [{"input_ids": torch.tensor([[0, 1]])}])
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(table.grad is None for table in net.full.tables)


def test_the_caller_may_name_both_sides():
    found = compare_submodels(bigram(), [{"input_ids": torch.tensor([[0]])}], names=("SoFT", "SFT"))["kl"]
    assert (found.name, found.reference) == ("SoFT", "SFT")


def test_states_of_a_classifier_are_averaged_over_the_real_tokens():
    net = classifier([1.0, 0.0], [0.0, 1.0])
    states = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]])
    rows = {1: states, 2: torch.tensor([[[1.0, 1.0], [-9.0, 9.0]]])}

    class Masked(Classifier):
        def forward(self, x, attention_mask):
            return super().forward(x)

    net = SortedNet(Masked, DEPTHS)
    batch = {"x": torch.zeros(1, 2), "attention_mask": torch.tensor([[1, 0]])}
    found = compare_submodels(net, [batch], measures=("cosine",), hidden=lambda module, inputs: rows[len(module.rows)])[
        "cosine"
    ]
    assert found.values[0][0] == pytest.approx(math.sqrt(0.5))


# Hugging Face models.


def llama(**supports):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, head_dim=4
    )
    torch.manual_seed(0)
    return SortedNet.from_pretrained(transformers.LlamaForCausalLM(config), **supports or {"num_hidden_layers": [1, 2]})


def test_hugging_face_states_are_those_that_the_head_reads():
    net = llama()
    ids = torch.tensor([[1, 2, 3]])
    found = compare_submodels(net, [{"input_ids": ids}], measures=("cosine",))["cosine"]
    with torch.no_grad():
        small, full = (net.submodel(num_hidden_layers=depth).model(ids).last_hidden_state[0] for depth in (1, 2))
    assert found.values[0] == pytest.approx(torch.cosine_similarity(small, full, -1).tolist())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing_in_a_hugging_face_model(side):
    net = llama()
    ids, pad = torch.tensor([[1, 2, 3]]), torch.zeros(1, 2, dtype=torch.long)
    labels, ignored = torch.tensor([[-100, 2, 3]]), torch.full((1, 2), -100)
    bare = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    order = (lambda a, b: torch.cat([b, a], 1)) if side == "left" else (lambda a, b: torch.cat([a, b], 1))
    padded = {
        "input_ids": order(ids, pad),
        "labels": order(labels, ignored),
        "attention_mask": order(torch.ones_like(ids), pad),
    }
    one, two = (compare_submodels(net, [batch], measures=("kl", "cosine")) for batch in (bare, padded))
    assert one["kl"].counts == two["kl"].counts == (1, 1)
    for measure in one:
        assert two[measure].values[0] == pytest.approx(one[measure].values[0], abs=1e-6)


def test_a_hugging_face_classifier_has_one_position():
    transformers = pytest.importorskip("transformers")

    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2, num_labels=3
    )
    net = SortedNet.from_pretrained(transformers.BertForSequenceClassification(config), num_hidden_layers=[1, 2])
    batch = {
        "input_ids": torch.tensor([[1, 2, 3], [4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "labels": torch.tensor([0, 2]),
    }
    found = compare_submodels(net, [batch], measures=("kl", "cosine"))
    assert [(one.positions, one.counts) for one in found.values()] == [((0,), (2,))] * 2
    assert -1 <= found["cosine"].values[0][0] <= 1


# Errors.


def test_different_widths_have_no_cosine_but_a_divergence():
    net = llama(hidden_size=[4, 8])
    batch = {"input_ids": torch.tensor([[1, 2]])}
    assert compare_submodels(net, [batch])["kl"].values[0][0] >= 0
    text = r"hidden states are 4 wide, and those of the reference 8. Cosine .* choose settings=\[...\] of that width"
    with pytest.raises(ConfigError, match=text):
        compare_submodels(net, [batch], measures=("cosine",))


def test_different_vocabularies_are_refused():
    other = SortedNet(lambda depth: Bigram(depth, 6), DEPTHS)
    with pytest.raises(DataError, match=r"outputs have 5 classes, and those of the reference 6. Compare models of one"):
        compare_submodels(bigram(), [{"input_ids": torch.tensor([[0]])}], other=other)


def test_a_model_without_states_asks_for_a_function():
    with pytest.raises(ConfigError, match=r"Bigram has no output_hidden_states .* Give hidden=..."):
        compare_submodels(bigram(), [{"input_ids": torch.tensor([[0]])}], measures=("cosine",))


def test_a_model_that_ignores_the_request_for_states_is_named():
    class Deaf(Bigram):
        config = SimpleNamespace(output_hidden_states=False)

        def forward(self, input_ids, output_hidden_states=False):
            return super().forward(input_ids)

    with pytest.raises(ConfigError, match=r"Deaf returned no hidden states although asked to. Give hidden=..."):
        compare_submodels(SortedNet(Deaf, DEPTHS), [{"input_ids": torch.tensor([[0]])}], measures=("cosine",))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"measures": "kl"}, r"measures='kl' is not allowed. Give some of \('kl', 'cosine'\), in a tuple"),
        ({"measures": ()}, r"measures=\(\) is not allowed"),
        ({"measures": ("l2",)}, r"measures=\('l2',\) is not allowed"),
        ({"max_positions": 0}, "max_positions=0 is below 1. Give at least 1"),
        ({"chunk_tokens": 0}, "chunk_tokens=0 is below 1. Give at least 1"),
        ({"against": "same"}, r"against='same' compares a sub-model with itself. Give other=..., or a setting"),
        ({"other": 3}, "other is a int. Give a SortedNet or a module"),
        (
            {"other": nn.Linear(1, 1), "against": "depth=1"},
            "against='depth=1' names a sub-model, and other is a Linear",
        ),
        ({"settings": []}, r"There is no sub-model to compare with the full model. Give settings=\[...\]"),
    ],
)
def test_arguments_outside_their_range_are_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        compare_submodels(bigram(), [{"input_ids": torch.tensor([[0]])}], **changes)


def test_an_ordinary_module_is_no_network():
    with pytest.raises(
        ConfigError, match=r"The network is a Linear. Give a SortedNet; an ordinary module goes to other"
    ):
        compare_submodels(nn.Linear(1, 1), [torch.ones(1, 1)])


def test_a_setting_outside_the_space_is_refused():
    with pytest.raises(SettingError, match="depth=3 is outside its support"):
        compare_submodels(bigram(), [{"input_ids": torch.tensor([[0]])}], against="depth=3")


@pytest.mark.parametrize(
    "batches", [{"input_ids": torch.tensor([[0]])}, torch.zeros(1), (torch.zeros(1), torch.zeros(1))]
)
def test_a_single_batch_is_refused(batches):
    with pytest.raises(DataError, match=r"A single batch was given. Give a list of batches, such as \[batch\]"):
        compare_submodels(bigram(), batches)


@pytest.mark.parametrize(
    "batches", [[], [{"input_ids": torch.tensor([[0, 1]]), "labels": torch.tensor([[-100, -100]])}]]
)
def test_batches_in_which_nothing_counts_are_refused(batches):
    with pytest.raises(DataError, match="No output counts: there is no batch, or every label is -100"):
        compare_submodels(bigram(), batches)


@pytest.mark.parametrize(("name", "text"), [("attention_mask", "attention_mask has"), ("labels", "The labels have")])
def test_masks_of_another_shape_are_refused(name, text):
    batch = {"input_ids": torch.tensor([[0, 1]]), name: torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(DataError, match=rf"{text} the shape \(1, 3\), and the outputs are \(1, 2\). Give"):
        compare_submodels(bigram(), [batch])


@pytest.mark.parametrize(("shape", "text"), [((1, 3, 4), "and the outputs"), ((1, 2, 3, 4), r"Give hidden=\.\.\.")])
def test_states_of_another_shape_are_refused(shape, text):
    batch = {"input_ids": torch.tensor([[0, 1]])}
    with pytest.raises(DataError, match=rf"The hidden states have the shape \({str(shape)[1:-1]}\).*{text}"):
        compare_submodels(bigram(), [batch], measures=("cosine",), hidden=lambda module, inputs: torch.zeros(shape))


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2, 2)])
def test_outputs_that_are_no_distributions_are_refused(shape):
    class Other(Classifier):
        def forward(self, x):
            return torch.zeros(shape)

    with pytest.raises(DataError, match=r"The outputs have the shape .* logits of at least two classes"):
        compare_submodels(SortedNet(Other, DEPTHS), [torch.zeros(3, 1)])


def test_an_output_without_logits_is_refused():
    class Other(Classifier):
        def forward(self, x):
            return {"prediction": x}

    with pytest.raises(DataError, match=r"The output is a dict without logits. Give a model that returns logits"):
        compare_submodels(SortedNet(Other, DEPTHS), [torch.zeros(3, 1)])


def test_outputs_of_different_lengths_are_refused():
    class Prefixed(Bigram):
        def forward(self, input_ids):
            return SimpleNamespace(logits=super().forward(input_ids).logits.repeat(1, len(self.tables), 1))

    with pytest.raises(DataError, match=r"At depth=1, 1 outputs count, and of the reference 2. Compare models whose"):
        compare_submodels(SortedNet(Prefixed, DEPTHS), [{"input_ids": torch.tensor([[0]])}])
