"""`--level` as typed."""

from __future__ import annotations

import pytest

from u2net3d.cli.predicting import level_of
from u2net3d.errors import UsageError


@pytest.mark.parametrize(
    ("text", "level"), [(None, None), ("auto", "auto"), ("mean", "mean"), ("1", 1), ("12", 12)]
)
def test_a_number_or_a_word(text, level):
    assert level_of(text) == level


@pytest.mark.parametrize("text", ["", "fast", "-1", "1.5", "Auto"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(UsageError, match="is no level"):
        level_of(text)
