from typing import NamedTuple

import pytest
import torch
from torch import nn

import sortednet as sn
from sortednet.errors import ConfigError, DataError, SettingError
from sortednet.models import MLP, PreResNet


def make_net() -> sn.SortedNet:
    torch.manual_seed(0)
    return sn.SortedNet(
        lambda depth, width: MLP(depth, width, inputs=5, classes=3), sn.Space(depth=[1, 2], width=[4, 8])
    )


def batches(count: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    sizes = [4, 4, 2][:count]
    return [(torch.randn(n, 5, generator=generator), torch.randint(0, 3, (n,), generator=generator)) for n in sizes]


def test_every_sub_model_has_one_row() -> None:
    net = make_net()
    table = sn.evaluate(net, batches(), measure=())
    assert {row.setting for row in table} == set(net.space)


def test_quality_is_the_mean_over_examples_not_over_batches() -> None:
    net = make_net()
    data = batches()
    row = sn.evaluate(net, data, measure=()).row(net.space.full)
    right = sum(int((net(x).argmax(-1) == y).sum()) for x, y in data)
    assert row.quality == pytest.approx(100 * right / 10)


def test_a_metric_that_is_a_mean_is_weighted_by_the_batch() -> None:
    net = make_net()
    data = batches()
    loss = sn.evaluate(net, data, nn.functional.cross_entropy, measure=(), higher_is_better=False).row(net.space.full)
    whole = torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])
    assert loss.quality == pytest.approx(float(nn.functional.cross_entropy(net(whole[0]), whole[1]).detach()), abs=1e-6)


def test_the_quality_of_a_row_is_the_extracted_models() -> None:
    net = make_net()
    data = batches()
    for row in sn.evaluate(net, data, measure=()):
        model = net.extract(row.setting)
        right = sum(int((model(x).argmax(-1) == y).sum()) for x, y in data)
        assert row.quality == pytest.approx(100 * right / 10)


def test_recovery_is_in_per_cent_of_the_full_model() -> None:
    table = sn.evaluate(make_net(), batches(), measure=())
    full = table.row(make_net().space.full).quality
    assert all(row.recovery == pytest.approx(100 * row.quality / full) for row in table)


def test_costs_are_those_of_the_sub_model() -> None:
    net = make_net()
    row = sn.evaluate(net, batches(), settings=["depth=1,width=4"]).row("depth=1,width=4")
    assert row.params == sum(p.numel() for p in net.extract(depth=1, width=4).parameters()) == 5 * 4 + 4 + 4 * 3 + 3
    assert row.flops == 2 * (5 * 4 + 4 * 3)
    assert row.latency_ms > 0
    assert row.memory_bytes >= 4 * row.params


def test_only_what_is_asked_for_is_measured() -> None:
    row = sn.evaluate(make_net(), batches(), measure=("flops",))[0]
    assert row.flops is not None
    assert row.latency_ms is None
    assert row.memory_bytes is None


def test_the_full_model_is_always_measured_for_the_recovery() -> None:
    net = make_net()
    table = sn.evaluate(net, batches(), settings=["depth=1,width=4"], measure=())
    assert {str(row.setting) for row in table} == {"depth=1,width=4", "depth=2,width=8"}


def test_nothing_of_the_network_changes() -> None:
    torch.manual_seed(0)
    net = sn.SortedNet(lambda width: PreResNet(1, width, stages=1, channels=1), sn.Space(width=[2, 4])).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    sn.evaluate(net, [(torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2]))])
    assert net.training
    assert net.full.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_an_iterator_serves_all_sub_models() -> None:
    net = make_net()
    assert sn.evaluate(net, iter(batches()), measure=()) == sn.evaluate(net, batches(), measure=())


def test_batches_of_keyword_arguments_serve() -> None:
    class Named(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = MLP(1, width, inputs=5, classes=3)

        def forward(self, x, labels):
            return self.body(x)

    net = sn.SortedNet(Named, sn.Space(width=[4, 8]))
    data = [{"x": x, "labels": y} for x, y in batches()]
    table = sn.evaluate(net, data, lambda output, batch: sn.accuracy(output, batch["labels"]), metric_name="accuracy")
    assert len(table) == 2


def depths() -> sn.SortedNet:
    torch.manual_seed(0)
    return sn.SortedNet(
        lambda depth, width: MLP(depth, width, inputs=5, classes=3), sn.Space(depth=[1, 2, 3, 4], width=[4, 8])
    )


def forwards(net: sn.SortedNet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list to which the number of sub-models of every call of a network is added."""
    found, forward = [], type(net).forward

    def counted(self, *args, settings, **kwargs):
        found.append(len(settings))
        return forward(self, *args, settings=settings, **kwargs)

    monkeypatch.setattr(type(net), "forward", counted)
    return found


@pytest.mark.parametrize("metric", [sn.accuracy, nn.functional.cross_entropy])
def test_scores_of_a_shared_forward_are_those_of_the_sub_models_to_the_bit(metric, monkeypatch) -> None:
    net = depths()
    shared = forwards(net, monkeypatch)
    table = sn.evaluate(net, batches(), metric, measure=())
    assert shared == [4] * 3 * 2
    for row in table:
        assert row.quality == sn.evaluation.quality(net.submodel(row.setting), batches(), metric)


def test_sub_models_run_one_by_one_where_the_network_is_compiled(monkeypatch) -> None:
    net = depths()
    net.compile(backend="eager")
    shared = forwards(net, monkeypatch)
    assert sn.evaluate(net, batches(), measure=()) == sn.evaluate(depths(), batches(), measure=())
    assert shared == [4] * 3 * 2  # of the other network


def test_an_input_named_as_an_argument_of_the_network_reaches_the_model() -> None:
    class Weighted(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            self.body = MLP(depth, 4, inputs=5, classes=3)

        def forward(self, x, weights, labels=None):
            return self.body(x) * weights

    net = sn.SortedNet(Weighted, sn.Space(depth=[1, 2]))
    data = [{"x": x, "weights": torch.zeros(len(x), 1), "labels": torch.zeros(len(x), dtype=torch.long)}
            for x, _ in batches()]  # fmt: skip
    assert [row.quality for row in sn.evaluate(net, data, measure=())] == [100, 100]


def test_exits_of_a_language_model_are_read_whole_for_a_metric() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    net = sn.SortedNet.from_pretrained(LlamaForCausalLM(config), num_hidden_layers=[1, 2])
    ids = torch.randint(1, 11, (3, 5))

    def chance(output, batch):
        return output.logits.softmax(-1)[..., 1].mean()

    table = sn.evaluate(net, [{"input_ids": ids, "labels": ids}], chance, measure=())
    for row in table:
        with torch.no_grad():
            expected = chance(net.submodel(row.setting)(input_ids=ids), None)
        assert row.quality == float(expected)


def test_progress_is_told() -> None:
    told = []
    sn.evaluate(make_net(), batches(), measure=(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_empty_data_are_refused() -> None:
    with pytest.raises(DataError, match=r"empty. Give at least one batch"):
        sn.evaluate(make_net(), [])


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingError, match=r"width=5 is outside its support \[4, 8\]"):
        sn.evaluate(make_net(), batches(), settings=["depth=1,width=5"])


def test_a_network_that_diverged_is_not_right_by_chance() -> None:
    net = make_net()
    with torch.no_grad():
        net.full.head.bias.fill_(float("nan"))
    assert all(row.quality != row.quality for row in sn.evaluate(net, batches(), measure=()))


def test_a_single_batch_in_place_of_a_list_is_refused() -> None:
    with pytest.raises(DataError, match=r"single batch.*list of batches"):
        sn.evaluate(make_net(), batches()[0])


def test_a_model_that_is_not_sorted_is_refused() -> None:
    with pytest.raises(DataError, match=r"measures a SortedNet, not a MLP"):
        sn.evaluate(MLP(), batches())


@pytest.mark.parametrize("empty", [{"loader": []}, {"loader": iter([])}, {"loader": batches(), "report": []}])
def test_each_empty_split_is_named(empty) -> None:
    which = "report" if "report" in empty else "evaluate"
    with pytest.raises(DataError, match=f"The data to {which} on are empty"):
        sn.evaluate(make_net(), **empty)


def test_what_is_reported_is_measured_on_the_other_split() -> None:
    net = make_net()
    one, other = batches()[:1], batches()[1:]
    table = sn.evaluate(net, one, measure=(), report=other)
    for row in table:
        assert row.quality == sn.evaluation.quality(net.submodel(row.setting), one)
        assert row.reported == sn.evaluation.quality(net.submodel(row.setting), other)
        assert row.reported_low <= row.reported <= row.reported_high
    assert (table.conditions["examples"], table.conditions["reported examples"]) == (4, 6)


def test_conditions_say_where_and_on_how_much_it_was_measured() -> None:
    table = sn.evaluate(make_net(), batches(), cost_batch=3, conditions={"seed": 7, "split": "test"})
    held = table.conditions
    assert held["threads"] == torch.get_num_threads()
    assert held["costs of"] == "FLOPs of 1 example, the others of 3"
    assert (held["examples"], held["seed"], held["split"], held["precision"]) == (10, 7, "test", "float32")
    assert held["processor"]
    assert f"torch {torch.__version__}" in held["versions"]


def test_costs_of_a_batch_without_single_examples_are_those_of_the_batch() -> None:
    class Graph(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(5, width), nn.Linear(width, 3)

        def forward(self, x, edge_index):
            return self.head(self.body(x).index_add(0, edge_index[1], self.body(x)[edge_index[0]]))

    net = sn.SortedNet(Graph, sn.Space(width=[2, 4]))
    table = sn.evaluate(net, [(torch.randn(6, 5), torch.randint(0, 6, (2, 9)), torch.arange(6) % 3)])
    assert table.row("width=2").flops == 2 * 6 * (5 * 2 + 5 * 2 + 2 * 3)
    assert table.conditions["costs of"] == "the first batch as it is (6x5, 2x9)"


def test_a_cost_that_cannot_be_measured_stays_empty_with_the_reason() -> None:
    class Asks(nn.Linear):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    table = sn.evaluate(sn.SortedNet(lambda width: Asks(5, width), sn.Space(width=[3, 4])), batches())
    assert [row.flops for row in table] == [None, None]
    assert all(row.memory_bytes and row.latency_ms for row in table)
    assert table.notes["flops"].startswith("ConfigError at width=3: The forward of the sub-model at width=3 failed")


@pytest.mark.parametrize("bad", [{"measure": ("speed",)}, {"cost_batch": 0}])
def test_measurements_that_are_none_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match=r"may hold flops, latency, memory, and cost_batch=\d is at least 1"):
        sn.evaluate(make_net(), batches(), **bad)


@pytest.mark.parametrize(
    "metric", [nn.functional.cross_entropy, lambda o, y: -nn.functional.cross_entropy(o, y, reduction="none")]
)
def test_there_is_no_recovery_of_losses_and_of_what_is_below_zero(metric) -> None:
    table = sn.evaluate(make_net(), batches(), metric, measure=(), metric_name="neg_log_loss")
    assert all(row.recovery is None for row in table)


def test_the_margins_of_a_table_are_paired() -> None:
    table = sn.evaluate(make_net(), batches(), measure=())
    alone = [(row.quality_high - row.quality_low) / 2 for row in table[:2]]
    assert 0 < table.differ_by(*table[:2]) < sum(alone)


def test_batches_without_examples_are_refused() -> None:
    with pytest.raises(DataError, match="hold no example"):
        sn.evaluate(make_net(), [(torch.ones(0, 5), torch.ones(0, dtype=torch.long))], measure=())


def test_costs_are_those_of_the_extracted_model_where_parameters_are_fused() -> None:
    class Fused(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.qkv = nn.Linear(4, 3 * width)
            self.out = nn.Linear(width, 3)

        def forward(self, x):
            return self.out(sum(self.qkv(x).chunk(3, -1)))

    net = sn.SortedNet(Fused, sn.Space(width=[8, 256]), layouts=sn.Layout("qkv.*", blocks=3))
    row = sn.evaluate(net, [(torch.randn(4, 4), torch.arange(4) % 3)], measure=("memory",)).row("width=8")
    assert row.memory_bytes == sn.evaluation.measure_memory(net.extract(width=8).eval(), torch.randn(1, 4))


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def test_inputs_in_a_named_tuple_are_measured() -> None:
    class Two(torch.nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, width), torch.nn.Linear(width, 2)

        def forward(self, pair: Pair) -> torch.Tensor:
            return self.last(self.first(pair.left + pair.right))

    net = sn.SortedNet(Two, sn.Space(width=[2, 4]))
    batch = (Pair(torch.ones(5, 3), torch.zeros(5, 3)), torch.zeros(5, dtype=torch.long))
    table = sn.evaluate(net, [batch])
    assert [row.flops for row in table] == sorted(row.flops for row in table)
