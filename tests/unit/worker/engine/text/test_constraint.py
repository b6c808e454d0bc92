"""What may follow by a grammar, token by token, whatever the tokenizer."""

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer as Backend, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from producer.contract import GenerationRequest, InvalidRequest
from producer.contract.structured import MAX_GRAMMAR_CHARS
from worker.engine import Tokenizer
from worker.engine.text import constraint as module
from worker.engine.text.constraint import Constraint, Constraints
from worker.engine.text.detokenizer import Detokenizer

from . import piece_tokenizers

VOCAB_SIZE = 800
EOS = 2
SCHEMA = {
    "type": "object",
    "properties": {"a queue": {"type": "string", "maxLength": 9}, "n": {"enum": [1, 22, 333]}},
    "required": ["a queue", "n"],
    "additionalProperties": False,
}
STRUCTURES = {
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "regex": {"grammar": {"type": "regex", "regex": r"[ac]{3} é+\n"}},
    "choice": {"grammar": {"type": "choice", "choice": ["a queue", "queue a", "你 queue, a.", 'q"\\\n"']}},
}
LLAMA_3_2 = {  # as in newer folders of Llama 2's kind
    "pre_tokenizer": pre_tokenizers.Metaspace(prepend_scheme="first", split=False),
    "decoder": decoders.Sequence([*piece_tokenizers._BY_BYTES, decoders.Strip(" ", 1, 0)]),
}
KINDS = ("byte-level", "Llama 2", "Gemma", "newer Llama 2")


@pytest.fixture(scope="module", params=KINDS)
def constraints(request, tokenizer, tmp_path_factory) -> tuple[Constraints, Tokenizer]:
    if request.param == "byte-level":
        return Constraints(tokenizer, VOCAB_SIZE), tokenizer
    with pytest.MonkeyPatch.context() as patched:
        # llguidance takes a piece that begins as a byte does for one.
        pieces = [piece for piece in piece_tokenizers.PIECES if not piece.startswith("<0x")]
        patched.setattr(piece_tokenizers, "PIECES", (*pieces, *'{}:,"\\c123'))
        patched.setitem(piece_tokenizers.FAMILIES, "newer Llama 2", LLAMA_3_2)
        folder = piece_tokenizers.save_piece_tokenizer(tmp_path_factory.mktemp("pieces"), request.param)
    pieces = Tokenizer(folder)
    return Constraints(pieces, VOCAB_SIZE), pieces


def asking(**fields) -> GenerationRequest:
    return GenerationRequest.parse({"prompt": "x", **fields})


def allowed(constraint: Constraint) -> list[int]:
    words = np.zeros(constraint.words, np.uint32)
    constraint.fill(words)
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist()


def walk(constraint: Constraint, seed: int, longest: int = 80) -> list[int]:
    """Tokens that may come, drawn."""
    drawn, ids = random.Random(seed), []
    while not constraint.is_over and len(ids) < longest:
        ids.append(drawn.choice(allowed(constraint)))
        assert constraint.push(ids[-1])
    return ids


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer)
    return "".join(detokenizer.push(token_id) for token_id in ids if token_id != EOS) + detokenizer.flush()


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_comes_out_fits(constraints, structure):
    found, tokenizer = constraints
    asked = asking(**STRUCTURES[structure])
    for seed in range(15):
        constraint = found.of(asked, frozenset([EOS]))
        text = shown(tokenizer, walk(constraint, seed))
        if not constraint.is_over:
            continue
        if structure == "schema":
            assert json.loads(text).keys() == {"a queue", "n"}
        elif structure == "regex":
            assert re.fullmatch(asked.grammar.regex, text)
        else:
            assert text in asked.grammar.choice


@pytest.mark.parametrize("structure", STRUCTURES)
def test_it_is_a_function_of_the_ids_alone(constraints, structure):
    """Replayed, with tokens taken one by one or as they are forced, it stands where it stood."""
    found, _ = constraints
    asked = asking(**STRUCTURES[structure])
    for seed in range(4):
        constraint, seen, ids = found.of(asked, frozenset([EOS])), [], []
        while not constraint.is_over and len(ids) < 40:
            seen.append(allowed(constraint))
            taken = constraint.take_forced(3) if seed % 2 else []
            ids += taken
            seen += [None] * max(len(taken) - 1, 0)
            if not taken:
                ids.append(random.Random(len(ids) + seed).choice(seen[-1]))
                assert constraint.push(ids[-1])
        for cut, expected in enumerate(seen):
            again = found.of(asked, frozenset([EOS]))
            assert all(again.push(token_id) for token_id in ids[:cut])
            assert expected is None or allowed(again) == expected


def test_what_is_forced_is_all_that_may_come(constraints):
    found, _ = constraints
    asked = asking(grammar={"type": "choice", "choice": ["a queue, a queue, a queue"]})
    constraint, taken = found.of(asked, frozenset([EOS])), []
    one_by_one = found.of(asked, frozenset([EOS]))
    while forced := constraint.take_forced(2):
        taken += forced
    assert constraint.is_over
    for token_id in taken:
        assert allowed(one_by_one) == [token_id]
        assert one_by_one.allows(token_id)
        assert not one_by_one.allows(token_id + 1)
        assert one_by_one.push(token_id)
    assert one_by_one.ends_at == len(taken)


def test_a_text_that_is_cut_otherwise_is_taken(constraints):
    found, tokenizer = constraints
    asked = asking(grammar={"type": "choice", "choice": ["a queue"]})
    constraint = found.of(asked, frozenset([EOS]))
    first = tokenizer.backend.token_to_id("a")
    assert constraint.push(first)
    assert shown(tokenizer, [first, *constraint.take_forced(99)]) == "a queue"


def test_a_forced_text_is_cut_once_and_not_anew_after_each_token(tmp_path):
    """As of GPT-4 and Llama 3, which cut digits by threes: behind `12`, the 3 and the 4 would be one token."""
    vocabulary = {token: place for place, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Backend(models.BPE(vocab={**vocabulary, "34": len(vocabulary)}, merges=[("3", "4")]))
    threes = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([threes, byte_level])
    bpe.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(tmp_path)
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode("123456", add_special_tokens=False).tolist()
    assert len(ids) == len("123456")

    constraints = Constraints(tokenizer, VOCAB_SIZE)
    for at_once in (99, 1):
        constraint = constraints.of(asking(grammar={"type": "choice", "choice": ["123456"]}), frozenset([EOS]))
        taken = []
        while forced := constraint.take_forced(at_once):
            taken += forced
        assert taken == ids


def test_what_may_not_come_is_said(constraints):
    found, _ = constraints
    asked = asking(grammar={"type": "regex", "regex": "a+"})
    constraint = found.of(asked, frozenset([EOS]))
    first = allowed(constraint)[0]
    assert not found.of(asked, frozenset([EOS])).push(EOS)
    assert constraint.push(first)
    assert EOS in allowed(constraint)
    assert not constraint.push(
        next(token_id for token_id in range(VOCAB_SIZE) if token_id not in allowed(constraint))
    )


@pytest.mark.parametrize("rule", ['<|im_end|> "a"', '"a" <|im_end|> "b"', '"a" "a"+ <|im_end|> "b"'])
def test_what_ends_the_answer_comes_at_its_end_alone(tokenizer, rule):
    """Also where a grammar has it in its midst."""
    asked = asking(grammar={"type": "lark", "lark": f"start: {rule}"})
    constraint = Constraints(tokenizer, VOCAB_SIZE).of(asked, frozenset([EOS]))
    for _ in range(4):
        assert EOS not in (may_come := allowed(constraint))
        assert constraint.take_forced(1) or not may_come or constraint.push(may_come[0])


def test_no_token_beyond_the_models_vocabulary(tokenizer):
    small = Constraints(tokenizer, 300)
    constraint = small.of(
        asking(grammar={"type": "choice", "choice": ["the queue of genqueue"]}), frozenset([EOS])
    )
    assert all(token_id < 300 for token_id in constraint.take_forced(99))


@pytest.mark.parametrize(
    ("family", "said"),
    [("Metaspace", "can't determine decoder type"), ("bytes, then Metaspace", "does not come back")],
)
def test_a_tokenizer_that_llguidance_takes_otherwise_is_refused(family, said, tmp_path, monkeypatch):
    monkeypatch.setattr(piece_tokenizers, "PIECES", tuple(p for p in piece_tokenizers.PIECES if p[0] != "<"))
    tokenizer = Tokenizer(piece_tokenizers.save_piece_tokenizer(tmp_path, family))
    with pytest.raises(InvalidRequest, match=f"cannot be held to a structure.*{said}"):
        Constraints(tokenizer, VOCAB_SIZE).prepare(asking(**STRUCTURES["schema"]))


def test_a_panic_of_llguidance_is_an_error(tmp_path):
    tokenizer = Tokenizer(piece_tokenizers.save_piece_tokenizer(tmp_path, "Gemma"))
    with pytest.raises(InvalidRequest, match="llguidance failed"):
        Constraints(tokenizer, VOCAB_SIZE).prepare(asking(**STRUCTURES["schema"]))


DEEP = {
    "rules": ("lark", lambda n: "start: r0\n" + "".join(f"r{i}: r{i + 1}\n" for i in range(n)) + f'r{n}: "a"\n'),
    "references": (
        "schema",
        lambda n: {
            "$defs": {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(n)} | {f"d{n}": {}},
            "$ref": "#/$defs/d0",
        },
    ),
}


@pytest.mark.parametrize("kind", DEEP)
def test_the_deepest_that_there_may_be_ends_no_process(kind, tokenizer):
    name, make = DEEP[kind]
    size = next(n for n in range(5_000, 0, -100) if len(json.dumps(make(n))) < MAX_GRAMMAR_CHARS)
    asked = (
        asking(grammar={"type": "lark", "lark": make(size)})
        if name == "lark"
        else asking(
            response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": make(size)}},
        )
    )
    constraints = Constraints(tokenizer, VOCAB_SIZE)
    constraints.prepare(asked)
    walk(constraints.of(asked, frozenset([EOS])), 0, longest=5)


def test_what_is_compiled_is_kept(tokenizer, monkeypatch):
    constraints, compiled = Constraints(tokenizer, VOCAB_SIZE), []
    compile_grammar = constraints._compile
    monkeypatch.setattr(constraints, "_compile", lambda grammar: compiled.append(1) or compile_grammar(grammar))
    asked = [asking(grammar={"type": "regex", "regex": f"a{{{n}}}"}) for n in range(1, module.KEPT_GRAMMARS + 2)]
    for one in (asked[0], asked[0], *asked[1:], asked[-1]):
        constraints.prepare(one)
        assert walk(constraints.of(one, frozenset([EOS])), 1)
    assert len(compiled) == len(asked)
    constraints.prepare(asked[0])
    assert len(compiled) == len(asked) + 1


def test_nothing_is_asked_of_a_request_for_any_text(tokenizer, tmp_path: Path):
    constraints = Constraints(tokenizer, VOCAB_SIZE)
    constraints.prepare(asking())
    assert constraints.of(asking(), frozenset()) is None
    assert constraints._taken_over is None
