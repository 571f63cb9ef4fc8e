"""PEFT's switches reach sub-models, or are refused by name."""

import pytest
import torch
from peft import LoraConfig

from sortednet.errors import BuildError
from sortednet.lora.switches import rescaled

from ..contracts.adapter_cases import QUIET
from ..contracts.arriving_cases import CLASSIFIED, IDS, net_of

pytestmark = QUIET

USES = {
    "net": lambda net: net(**CLASSIFIED),
    "at": lambda net: net.at(r=2)(**CLASSIFIED),
    "submodel": lambda net: net.submodel(r=2),
    "extract": lambda net: net.extract(r=2),
    "shared": lambda net: net(**CLASSIFIED, settings=[{"r": 1}, {"r": 4}], split=True),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_a_second_adapter_is_refused_by_name_until_it_is_taken_off(use, used):
    net, before = net_of("adapted_bert"), net_of("adapted_bert").at(r=2)(**CLASSIFIED).logits
    if used:
        USES[use](net)
    net.full.add_adapter("two", LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS"))
    for _ in range(2):
        with pytest.raises(BuildError, match=r"holds the adapters default, two, and sub-models have default alone"):
            USES[use](net)
        net.full.set_adapter("two")
    net.full.set_adapter("default")
    net.full.delete_adapter("two")
    assert torch.equal(net.at(r=2)(**CLASSIFIED).logits, before)


def test_a_reference_without_the_adapter_is_the_model_itself():
    net = net_of("adapted_llama").train()
    with net.disable_adapter():
        reference = net(IDS).logits
        assert torch.equal(reference, net.full.get_base_model()(IDS).logits)
        assert torch.equal(reference, net.at(r=1)(IDS).logits)
    assert not torch.equal(net.eval()(IDS).logits, reference)


def test_ranks_that_share_a_forward_are_tried_again_when_the_adapter_is_on():
    net = net_of("adapted_bert")
    alone = [net.at(r=rank)(**CLASSIFIED).loss for rank in (1, 4)]
    with net.disable_adapter():
        off = net(**CLASSIFIED, settings=[{"r": 1}, {"r": 4}])
        assert torch.equal(off[0].logits, off[1].logits)
        net(**CLASSIFIED, settings=[{"r": 1}, {"r": 4}], split=True)
    on = net(**CLASSIFIED, settings=[{"r": 1}, {"r": 4}])
    assert [one.loss for one in on] == alone
    parts = net(**CLASSIFIED, settings=[{"r": 1}, {"r": 4}], split=True)
    halves = [{name: one[place : place + 2] for name, one in CLASSIFIED.items()} for place in (0, 2)]
    for part, rank, half in zip(parts, (1, 4), halves, strict=True):
        torch.testing.assert_close(part.logits, net.at(r=rank)(**half).logits)


def test_a_scaling_changes_that_of_each_rank_in_proportion():
    assert rescaled({"default": 6.0}, {"default": 1.5}, {"default": 0.75}) == {"default": 3.0}
    assert rescaled({"default": 6.0}, {"default": 1.5}, {}) == {"default": 6.0}
