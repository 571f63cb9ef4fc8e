"""What people evaluate: the table and the choice are right for each kind of metric and model."""

import pytest

from .kinds import evaluation_kinds, faults

KINDS = evaluation_kinds()


@pytest.mark.parametrize("name", KINDS)
def test_the_table_and_the_choice_are_right(name: str) -> None:
    assert faults(KINDS[name]) == []
