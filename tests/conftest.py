"""Settings every test shares."""

import os
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault(
        "TRITON_INTERPRET", "1"
    )  # kernels run on the CPU, slowly; read when Triton is imported

sys.path.insert(0, str(Path(__file__).parent))  # fixtures_support and other helpers, from any subfolder


@pytest.fixture(autouse=True, scope="session")
def same_precision_on_every_machine():
    """ "auto" is fp32 in tests, whatever this machine is fast in; tests of other precisions name them."""
    from denseclip.clip import device

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "bf16_unit", lambda device: "")
        yield


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available() and "DENSECLIP_TEST_DEVICE" not in os.environ:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))
