"""What is set on the full model after construction arrives at its sub-models, in whatever order they are used."""

import pytest

from .adapter_cases import QUIET
from .arriving_cases import ARRIVING, USES, Arriving, arrives

pytestmark = QUIET


@pytest.mark.parametrize("used", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("use", [*USES, "exits"])
@pytest.mark.parametrize("case", ARRIVING, ids=lambda case: case.name)
def test_what_is_set_on_the_full_model_arrives(case: Arriving, use: str, used: bool) -> None:
    arrives(case, use, used)
