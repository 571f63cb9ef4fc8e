"""Options of the tests: `--device cuda` runs the contract tests on another device."""

import os
import signal
import threading

import pytest

from .contracts import cases

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device of the contract tests, such as cuda")


def pytest_configure(config: pytest.Config) -> None:
    cases.DEVICE = config.getoption("--device")
    if threading.current_thread() is threading.main_thread():
        # What is started in the background of a shell ignores Ctrl-C, and tests press it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
