"""Other people's tools run on the models; the measure is transformers or a loop."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Other people's warnings are theirs; one that minilm's code causes is an error here too."""
    for item in items:
        if item.path.parent == HERE and item.path.name.startswith("test_"):
            marker = pytest.mark.filterwarnings("ignore", "error:::minilm")
            item.add_marker(marker, append=False)  # a test's own come later and win
