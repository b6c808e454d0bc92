"""Each code stands for one error, and each error says something."""

import pickle
from typing import get_args

import pytest

from producer.contract import ErrorCode, GenqueueError, JobError, job_error


def _subclasses(cls: type[GenqueueError]) -> list[type[GenqueueError]]:
    own = cls.__subclasses__()
    return own + [deeper for sub in own for deeper in _subclasses(sub)]


CONTRACT_ERRORS = [cls for cls in _subclasses(GenqueueError) if cls.__module__ == "producer.contract.errors"]


@pytest.mark.parametrize("code", get_args(ErrorCode))
def test_every_code_of_the_wire_has_its_error(code: ErrorCode) -> None:
    error = job_error(code, "what to do")

    assert isinstance(error, JobError)
    assert error.code == code
    assert str(error) == "what to do"


def test_the_wire_knows_the_codes_of_the_contract() -> None:
    assert set(get_args(ErrorCode)) == {
        "invalid_request",
        "unknown_model",
        "unknown_function",
        "prompt_too_long",
        "out_of_memory",
        "timeout",
        "expired",
        "worker_lost",
        "engine_error",
    }


def test_a_code_of_a_later_version_is_a_plain_error_that_carries_it() -> None:
    error = job_error("quota_exceeded", "pay")

    assert type(error) is JobError
    assert (error.code, str(error)) == ("quota_exceeded", "pay")
    assert pickle.loads(pickle.dumps(error)).code == "quota_exceeded"  # as process pools send it
    assert JobError().code != "quota_exceeded"


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in CONTRACT_ERRORS if cls is not JobError]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("cls", CONTRACT_ERRORS)
def test_an_error_without_a_message_says_what_its_class_says(cls: type[GenqueueError]) -> None:
    assert str(cls()) == (cls.__doc__ or "").strip() != ""
