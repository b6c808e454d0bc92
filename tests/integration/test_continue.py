"""Jobs that were cut go on, on a real worker, and are run again: the text is that of one undisturbed run."""

import os
import signal
import subprocess
import sys

import pytest

from producer.contract import InvalidRequest

from .conftest import joined
from .test_worker import LONG, PROMPT, wait_for_tokens

pytestmark = pytest.mark.slow

GREEDY = {"prompt": PROMPT, "model": "tiny"}
SAMPLED = {**LONG, "model": "tiny"}


@pytest.mark.parametrize(
    "asked",
    [
        {**GREEDY, "max_new_tokens": 60},
        {**SAMPLED, "max_new_tokens": 60},
        pytest.param(
            {"messages": [{"role": "user", "content": PROMPT}], "model": "tiny", "max_new_tokens": 60},
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"prompt_token_ids": [300, 301, 302], "model": "tiny", "max_new_tokens": 60, "ignore_eos": True},
            marks=pytest.mark.long,
        ),
    ],
    ids=["a text", "sampled", "a chat", "ids"],
)
def test_a_job_that_was_cut_by_length_goes_on(producer, asked):
    whole = producer.submit(**asked).result(timeout_s=100)
    cut = producer.submit(**{**asked, "max_new_tokens": 23})
    assert cut.result(timeout_s=100).truncated

    goes_on = cut.continue_job(37)

    text, ids = joined(list(goes_on.stream(timeout_s=100)))
    result = goes_on.result()
    assert (text, ids) == (result.text, list(result.token_ids)) == (whole.text, list(whole.token_ids))
    assert (result.finish_reason, result.usage) == (
        whole.finish_reason,
        whole.usage.model_copy(update={"cached_tokens": result.usage.cached_tokens}),
    )


@pytest.mark.parametrize("how", ["cancelled", pytest.param("out of time", marks=pytest.mark.long)])
def test_a_job_that_was_stopped_goes_on(producer, client, serving, how):
    whole = producer.submit(**SAMPLED).result(timeout_s=100)
    cut = producer.submit(**SAMPLED, timeout_s=1 if how == "out of time" else None)
    if how == "cancelled":
        wait_for_tokens(client, cut.job_id)
        with serving.engine_stopped():
            cut.cancel()
    else:
        serving.outlast(client, cut.job_id, 1)
    stopped = cut.result(timeout_s=100, check=False)
    assert stopped.status == ("cancelled" if how == "cancelled" else "failed")
    assert 0 < len(stopped.token_ids) < 900

    goes_on = cut.continue_job()

    text, ids = joined(list(goes_on.stream(timeout_s=100)))
    assert (text, ids) == (whole.text, list(whole.token_ids))


def test_a_job_that_goes_on_survives_its_engine(producer, client, serving):
    whole = producer.submit(**SAMPLED).result(timeout_s=100)
    cut = producer.submit(**{**SAMPLED, "max_new_tokens": 50})
    cut.result(timeout_s=100)
    goes_on = cut.continue_job(850)
    wait_for_tokens(client, goes_on.job_id)
    os.kill(serving.engine_pid(), signal.SIGKILL)

    text, ids = joined(list(goes_on.stream(timeout_s=100)))

    assert (text, ids) == (whole.text, list(whole.token_ids))
    assert goes_on.result().attempts == 2


def test_a_job_that_has_ended_by_itself_is_refused(producer):
    job = producer.submit(**GREEDY)
    job.result(timeout_s=100)
    with pytest.raises(InvalidRequest, match="it came to its end by itself"):
        job.continue_job(5)


def test_a_job_that_was_continued_is_verified(producer, serving, model_paths):
    cut = producer.submit(**{**SAMPLED, "max_new_tokens": 30})
    cut.result(timeout_s=100)
    goes_on = cut.continue_job(30)
    goes_on.result(timeout_s=100)
    command = [sys.executable, "-m", "producer", "verify", goes_on.job_id, "--device", "cpu"]
    environment = {**os.environ, "GENQUEUE_MODEL_PATHS": str(model_paths), "GENQUEUE_THREADS": "1"}
    done = subprocess.run(
        [*command, "--redis-url", serving.redis_url], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.returncode, done.stdout) == (0, "equal: all 30 tokens, after 30 that it was given\n"), done.stderr
