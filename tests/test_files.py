"""JSON and TOML from elsewhere: read, or one kind of error."""

from __future__ import annotations

import pytest

from anefast.files import parse_json, parse_toml


def test_what_is_well_formed_is_read():
    assert parse_json(b'{"a": [1, null]}') == {"a": [1, None]}
    assert parse_toml("a = [1, 2]\n[b]\nc = true") == {"a": [1, 2], "b": {"c": True}}


@pytest.mark.parametrize("read", [parse_json, parse_toml])
@pytest.mark.parametrize("text", ["[" * 99999, "a = " + "[" * 99999, "{", "a = {", "\0"])
def test_what_is_not_is_a_value_error(read, text):
    with pytest.raises(ValueError):
        read(text)
