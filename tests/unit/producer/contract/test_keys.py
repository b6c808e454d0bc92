"""Names on Redis: written out, because other programs rely on them."""

import pytest
from hypothesis import given, strategies as st

from producer.contract import InvalidRequest, Keys
from producer.contract.keys import check_job_id, check_model_name, model_of_queue, queue, queues


def test_the_names_are_those_of_contract_version_1() -> None:
    keys = Keys()

    assert keys.events("JOB") == "gen:{JOB}:events"
    assert keys.result("JOB") == "gen:{JOB}:result"
    assert keys.tokens("JOB") == "gen:{JOB}:tokens"
    assert keys.cancel("JOB") == "gen:{JOB}:cancel"
    assert queues("tiny") == ("generate.tiny.high", "generate.tiny", "generate.tiny.low")


def test_the_prefix_comes_first_and_holds_no_braces() -> None:
    assert Keys("mine").events("a") == "mine:{a}:events"
    for prefix in ("", "{", "a}"):
        with pytest.raises(ValueError, match="braces"):
            Keys(prefix)


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
    assert model_of_queue(queue(model, priority)) == model  # type: ignore[arg-type]


def test_a_wake_stream_is_no_jobs_key() -> None:
    wake = Keys().wake("abc")

    with pytest.raises(InvalidRequest):
        check_job_id(wake.removeprefix("gen:").strip("{}"))
