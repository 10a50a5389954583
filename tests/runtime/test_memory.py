"""keep_memory: freed tensors stay with the process, so the next ones cost no page faults."""

import resource
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from sfumato.runtime import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
for _ in range(20):  # until the heap has found its size
    torch.zeros(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.zeros(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    return int(
        subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
        ).stdout
    )


@pytest.mark.slow
def test_kept_memory_costs_no_page_faults():
    pages = 16_000_000 * 4 // resource.getpagesize()
    assert faults("keep") < pages / 10
    assert faults("let go") > 4 * pages  # the negative control: each tensor is faulted in anew
