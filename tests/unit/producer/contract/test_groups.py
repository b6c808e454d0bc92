"""A group's name in the name of its queue: bounded, safe everywhere, and read back as it was."""

import pytest
from hypothesis import given, strategies as st

from producer.contract import InvalidRequest, Keys
from producer.contract.groups import MAX_GROUP_CHARS, check_group, decode_group, encode_group

GROUPS = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters=[chr(each) for each in (*range(32), 127)]),
    min_size=1,
    max_size=MAX_GROUP_CHARS,
)
PRIORITIES = st.sampled_from(["high", "normal", "low"])


@pytest.mark.parametrize(
    ("group", "encoded"),
    [
        ("alice", "alice"),
        ("team-7_b.x", "team-7_b.x"),
        ("alice@example.org", "alice~40example.org"),
        ("a b/c:{*}~%", "a~20b~2fc~3a~7b~2a~7d~7e~25"),
        ("小明", "~e5~b0~8f~e6~98~8e"),
    ],
)
def test_the_encoding_is_that_of_the_contract(group: str, encoded: str) -> None:
    assert encode_group(group) == encoded
    assert decode_group(encoded) == group


@given(GROUPS)
def test_every_group_is_read_back(group: str) -> None:
    encoded = encode_group(group)
    assert decode_group(encoded) == group
    assert len(encoded) <= 12 * MAX_GROUP_CHARS


@given(st.text(max_size=40))
def test_a_group_has_one_name_alone(encoded: str) -> None:
    group = decode_group(encoded)
    assert group is None or encode_group(group) == encoded


@pytest.mark.parametrize("encoded", ["", "a b", "~4", "~4G", "~41", "~C3~A9", "~ff", "a@b", "~00", "a" * 65, "ü"])
def test_what_no_group_is_encoded_to_is_none(encoded: str) -> None:
    assert decode_group(encoded) is None


@pytest.mark.parametrize("group", ["", "a" * 65, "a\n", "\x00", "\x7f", "\ud800", 5, None, b"a"])
def test_what_cannot_be_a_group_is_refused(group: object) -> None:
    with pytest.raises(InvalidRequest, match="use a text of 1 to 64 characters"):
        check_group(group)  # type: ignore[arg-type]


@given(GROUPS, PRIORITIES, st.sampled_from(["gen", "a@b", "mine"]))
def test_a_queue_names_model_priority_and_group(group: str, priority: str, prefix: str) -> None:
    keys = Keys(prefix)
    name = keys.queue("tiny", priority, group)  # type: ignore[arg-type]
    assert keys.model_of_queue(name) == "tiny"
    assert keys.priority_of_queue(name) == priority
    assert keys.group_of_queue(name) == group
    assert Keys("other").model_of_queue(name) is None
    assert keys.group_of_queue(keys.queue("tiny", priority)) is None  # type: ignore[arg-type]


def test_the_queues_of_a_group_are_beside_those_of_all() -> None:
    assert Keys("mine").queues("tiny", "a b") == (
        "mine.generate.tiny.high@a~20b",
        "mine.generate.tiny@a~20b",
        "mine.generate.tiny.low@a~20b",
    )


@pytest.mark.parametrize("name", ["generate.tiny@", "generate.tiny@a b", "generate.@a", "generate.tiny@a@b"])
def test_a_queue_of_no_group_is_none_of_ours(name: str) -> None:
    assert Keys().model_of_queue(name) is None
    assert Keys().group_of_queue(name) is None
