"""The model without weights, for every test of this folder that asks for it."""

from __future__ import annotations

from typing import Any

import pytest
from label_fakes import install


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts loads in ``fake.loads``; ``model="fake"`` is the stand-in."""
    return install(monkeypatch)
