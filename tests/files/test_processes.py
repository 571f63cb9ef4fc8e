"""What a process that trains asks of the system."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import ctypes
from sortednet.files.processes import keep_memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b hblks hblkhd c d e f g".split()]

def mapped():
    library.mallinfo2.restype = Info
    return library.mallinfo2().hblks

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
before = mapped()
assert library.malloc(1 << 27) and mapped() == before + 1
keep_memory()
assert library.malloc(1 << 27) and mapped() == before + 1
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_large_blocks_are_no_longer_given_back_one_by_one() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
