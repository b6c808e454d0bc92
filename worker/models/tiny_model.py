"""The tiny model: a Qwen2 of under a million parameters, trained here in well under a minute.

Knows how to turn `tiny_corpus` into a model folder of the same form as Qwen2-7B's: config, generation
config, safetensors, byte-level BPE tokenizer, chat template. It serves the demo and the tests, so that both run
the code that a real model runs. Knows nothing of where the folder is kept (see `config_loader`), nor of
the engine. Training is the one place outside `worker.engine` that imports torch.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from ..engine.loading.progress_bars import no_progress_bars
from ..errors import ConfigError
from ..progress import ShownProgress
from . import tiny_corpus

CONTEXT_LENGTH = 1024
VOCAB_SIZE = 768
STEPS = 160
BATCH_SIZE = 16
PEAK_LEARNING_RATE = 4e-3
SEED = 20240607
FALLBACK_EXAMPLES = 400
"""Random questions that teach the model to say that it does not know."""

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Qwen2's own pattern and template (ChatML), without its default system message.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IGNORED = -100
"""Label of the positions that are not learned: the prompt and the padding."""

Example = tuple[list[int], list[int]]
"""Ids of a prompt, and ids of its answer, with the end-of-text id."""


def train_tiny_model(folder: Path, *, progress: bool = True) -> None:
    """Train the model and write it into `folder`, which must exist; about 20 s on one core.

    The same kind of machine gives the same weights every time: data, order and first weights follow from a seed.
    `progress` shows a bar on stderr.  Raises ConfigError when the trained model fails its examination.
    """
    tokenizer = train_tokenizer()
    with _one_thread(), torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(SEED)
        model = Qwen2ForCausalLM(_config(tokenizer))
        model.generation_config = _generation_config(tokenizer)
        _train(model, _examples(tokenizer), progress=progress)
    _examine(model, tokenizer)
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Qwen2's pattern and special tokens, trained on the corpus."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True) for token in (END_OF_TEXT, IM_START, IM_END)],
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[IM_START, IM_END],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_LENGTH,
    )


def _texts() -> Iterator[str]:
    for lesson in tiny_corpus.LESSONS:
        yield from lesson.questions
        yield lesson.answer
    yield tiny_corpus.FALLBACK_ENGLISH
    yield tiny_corpus.FALLBACK_CHINESE


def _config(tokenizer: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=_id(tokenizer, IM_END),
        pad_token_id=_id(tokenizer, END_OF_TEXT),
        dtype="float32",
    )


def _generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    end_of_text = _id(tokenizer, END_OF_TEXT)
    return GenerationConfig(eos_token_id=[_id(tokenizer, IM_END), end_of_text], pad_token_id=end_of_text)


def _id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int), "one token has one id"
    return token_id


def _examples(tokenizer: PreTrainedTokenizerFast) -> tuple[list[Example], list[Example]]:
    """What is learned by heart, and the questions that have no answer; each asked plainly and as a chat."""
    lessons = [(question, lesson.answer) for lesson in tiny_corpus.LESSONS for question in lesson.questions]
    unknown = _unknown_questions(tokenizer, random.Random(SEED))  # noqa: S311 - reproducible, not secret
    return (
        [_example(tokenizer, *pair, chat=chat) for pair in lessons for chat in (False, True)],
        [_example(tokenizer, *pair, chat=chat) for pair in unknown for chat in (False, True)],
    )


def _unknown_questions(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> list[tuple[str, str]]:
    """Questions of many forms, half of them random tokens: so many that none can be learned by heart."""
    tokens = [str(tokenizer.decode([token_id])) for token_id in range(len(tokenizer))]
    readable = [token for token in tokens if token.isprintable() and "\ufffd" not in token and "<|" not in token]
    ascii_tokens = [token for token in readable if token.isascii()]
    other_tokens = [token for token in readable if not token.isascii()]
    languages = (
        (tiny_corpus.ENGLISH_FRAMES, tiny_corpus.ENGLISH_TOPICS, ascii_tokens, tiny_corpus.FALLBACK_ENGLISH),
        (tiny_corpus.CHINESE_FRAMES, tiny_corpus.CHINESE_TOPICS, other_tokens, tiny_corpus.FALLBACK_CHINESE),
    )
    questions = []
    for _ in range(FALLBACK_EXAMPLES // 4):
        for frames, topics, words, answer in languages:
            questions.append((rng.choice(frames).format(rng.choice(topics)), answer))
            questions.append(("".join(rng.choices(words, k=rng.randint(2, 16))), answer))
    return questions


def _example(tokenizer: PreTrainedTokenizerFast, question: str, answer: str, *, chat: bool) -> Example:
    end = _id(tokenizer, IM_END if chat else END_OF_TEXT)
    # Question and answer are tokenized apart, as they are when the model is used.
    return tokenizer.encode(_prompt(tokenizer, question) if chat else question), [*tokenizer.encode(answer), end]


def _prompt(tokenizer: PreTrainedTokenizerFast, question: str) -> str:
    chat = [{"role": "user", "content": question}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def _train(model: Qwen2ForCausalLM, examples: tuple[list[Example], list[Example]], *, progress: bool) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LEARNING_RATE, total_steps=STEPS, pct_start=0.15
    )
    model.train()
    with ShownProgress(visible=progress) as shown:
        batches = _batches(*examples, random.Random(SEED))  # noqa: S311 - reproducible, not secret
        for step, batch in enumerate(batches, start=1):
            _loss(model, batch).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            shown("training the tiny model (once)", step, STEPS)
    model.eval()


def _batches(lessons: list[Example], unknown: list[Example], rng: random.Random) -> Iterator[list[Example]]:
    for _ in range(STEPS):
        yield rng.sample(lessons, BATCH_SIZE * 3 // 4) + rng.sample(unknown, BATCH_SIZE // 4)


def _loss(model: Qwen2ForCausalLM, batch: Sequence[Example]) -> Tensor:
    input_ids, labels = _collate(batch)
    logits = model(input_ids).logits  # padding is on the right, where causality hides it: no mask is needed
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)


def _collate(batch: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """Input ids and labels, both (batch, longest) int64. Only answers are labelled."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    input_ids = torch.zeros((len(batch), longest), dtype=torch.int64)
    labels = torch.full((len(batch), longest), IGNORED)
    for row, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        input_ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return input_ids, labels


def _examine(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    for chat in (False, True):
        prompt, answer = _example(tokenizer, tiny_corpus.DEFAULT_PROMPT, tiny_corpus.INTRODUCTION, chat=chat)
        output = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=len(answer) + 1,
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        )
        if output[0, len(prompt) :].tolist() != answer:
            raise ConfigError(
                "the tiny model did not learn its answer, which it should on any machine: "
                f"please report it, with your versions of torch ({torch.__version__}) and of transformers"
            )


@contextmanager
def _one_thread() -> Iterator[None]:
    """At this size a second thread gains a tenth, and costs fivefold where it has to share its core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
