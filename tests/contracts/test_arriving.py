"""What is set on the full model after construction arrives at its sub-models, in whatever order they are used."""

import pytest

from .adapter_cases import QUIET
from .arriving_cases import ARRIVING, WAYS, Arriving, arrives

pytestmark = [
    QUIET,
    pytest.mark.filterwarnings("ignore:Nothing has run yet that tells:UserWarning"),
    pytest.mark.filterwarnings("ignore:MixtralForCausalLM has no exits:UserWarning"),  # its routers lie in its blocks
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ARRIVING, ids=lambda case: case.name)
def test_what_is_set_before_the_first_use_arrives(case: Arriving, way: str) -> None:
    arrives(case, (), [way])


@pytest.mark.parametrize("case", ARRIVING, ids=lambda case: case.name)
def test_what_is_set_after_sub_models_were_used_arrives(case: Arriving) -> None:
    arrives(case, WAYS, WAYS)
