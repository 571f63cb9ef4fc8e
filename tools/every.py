"""A plug-in of pytest that runs each n-th test only: a wide look in little time."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `--every`."""
    parser.addoption("--every", type=int, default=1, help="run each n-th of the collected tests only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the others."""
    items[:] = items[:: config.getoption("--every")]
