"""On a card, in bfloat16: answers that are cut, resumed and disturbed are the undisturbed ones, token by token."""

import torch

from tests.benchmarks.resumes import compare, parse


def test_no_answer_differs(gpu: torch.device) -> None:
    arguments = ["--shape", "qwen2-0.5b", "--device", str(gpu), "--modes", "deterministic"]
    arguments += ["--prefill-chunk", "32", "--answers", "24", "--new-tokens", "32"]
    found = compare(parse(arguments))
    assert (found["compiled"], found["captured"]) == (True, True)
    [seen] = found["modes"].values()
    assert (seen["answers"], seen["differ"]) == (24, 0)
    assert seen["reused_tokens"] > 0
