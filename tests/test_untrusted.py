"""JSON and TOML from elsewhere: read, or one kind of error."""

from __future__ import annotations

import pytest

from anefast.untrusted import read_json, read_toml


def test_what_is_well_formed_is_read():
    assert read_json(b'{"a": [1, null]}') == {"a": [1, None]}
    assert read_toml("a = [1, 2]\n[b]\nc = true") == {"a": [1, 2], "b": {"c": True}}


@pytest.mark.parametrize("read", [read_json, read_toml])
@pytest.mark.parametrize("text", ["[" * 99999, "a = " + "[" * 99999, "{", "a = {", "\0"])
def test_what_is_not_is_a_value_error(read, text):
    with pytest.raises(ValueError):
        read(text)
