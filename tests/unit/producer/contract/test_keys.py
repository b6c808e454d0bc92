"""Names on Redis: written out, because other programs rely on them."""

import pytest
from hypothesis import given, strategies as st

from producer.contract import InvalidRequest, Keys
from producer.contract.keys import check_job_id, check_model_name


def test_the_names_are_those_of_contract_version_1() -> None:
    keys = Keys()

    assert keys.events("JOB") == "gen:{JOB}:events"
    assert keys.result("JOB") == "gen:{JOB}:result"
    assert keys.tokens("JOB") == "gen:{JOB}:tokens"
    assert keys.cancel("JOB") == "gen:{JOB}:cancel"
    assert keys.queues("tiny") == ("generate.tiny.high", "generate.tiny", "generate.tiny.low")


def test_the_prefix_comes_first() -> None:
    keys = Keys("prod")

    assert keys.events("a") == "prod:{a}:events"
    assert keys.queues("tiny") == ("prod.generate.tiny.high", "prod.generate.tiny", "prod.generate.tiny.low")


@pytest.mark.parametrize(
    "prefix", ["", "{", "a}", "a b", "a\n", "a" * 65, "generate", "generate.x", "a.generate", "\udcff"]
)
def test_a_prefix_whose_names_could_be_anothers_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Keys(prefix)


PREFIXES = st.from_regex(r"[A-Za-z0-9_.:-]{1,20}", fullmatch=True).filter(
    lambda it: "generate" not in it.split(".")
)
MODELS = st.sampled_from(["tiny", "x", "a.generate.b", "generate.x", "gen.generate.x"])


@given(PREFIXES, MODELS, PREFIXES, MODELS)
def test_no_queue_of_one_prefix_is_anothers(one: str, model: str, other: str, others_model: str) -> None:
    if one != other:
        assert Keys(one).queue(model) != Keys(other).queue(others_model)
        assert Keys(other).model_of_queue(Keys(one).queue(model)) is None


@pytest.mark.parametrize("job_id", ["", "a:b", "a b", "a/b", "{a}", "ä", "a\n", "a" * 129, "*", None, 5])
def test_a_job_id_that_could_reach_other_keys_is_refused(job_id: str) -> None:
    with pytest.raises(InvalidRequest, match="job id"):
        check_job_id(job_id)


@pytest.mark.parametrize(
    "model", ["", ".hidden", "a b", "a:b", "a/b", "a\n", "tiny.high", "tiny.low", "a" * 65, None]
)
def test_a_model_name_that_cannot_name_a_queue_is_refused(model: str) -> None:
    with pytest.raises(InvalidRequest, match="model name"):
        check_model_name(model)


@given(
    st.from_regex(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", fullmatch=True).filter(
        lambda name: not name.endswith((".high", ".low"))
    ),
    st.sampled_from(["high", "normal", "low"]),
)
def test_a_queue_names_its_model(model: str, priority: str) -> None:
    assert Keys().model_of_queue(Keys().queue(model, priority)) == model  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["generate.", "generate.x y", "generate..x", "generate.x.high.low", "other.x"])
def test_a_queue_of_no_model_is_none_of_ours(name: str) -> None:
    """RQ takes any name."""
    assert Keys().model_of_queue(name) is None


def test_a_wake_stream_is_no_jobs_key() -> None:
    wake = Keys().wake("abc")

    with pytest.raises(InvalidRequest):
        check_job_id(wake.removeprefix("gen:").strip("{}"))
