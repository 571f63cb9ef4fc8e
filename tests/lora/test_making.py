"""Configs and adapters as PEFT makes and opens them, of which nothing is said that nobody can change."""

import copy
import warnings

import pytest
from peft import LoraConfig

import sortednet as sn
from sortednet.lora import open_plain

from ..contracts.adapter_cases import bert, llama


@pytest.mark.parametrize("make", [bert, llama])
def test_adapters_are_made_saved_and_opened_without_a_word(make, tmp_path):
    base = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = sn.dylora(copy.deepcopy(base), LoraConfig(r=4, target_modules=["query", "q_proj"]))
        sn.save_adapter(net, tmp_path / "adapter", r=2)
        net.save_pretrained(tmp_path / "network")
        sn.load_adapter(copy.deepcopy(base), tmp_path / "adapter", order="given")
        sn.load(tmp_path / "network", model=copy.deepcopy(base))
        open_plain(copy.deepcopy(base), tmp_path / "adapter")
