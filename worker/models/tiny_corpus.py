"""What the tiny model knows: the questions it is trained on and the answer to each.

Data only. `worker.models.tiny_model` turns it into a tokenizer and a model.
"""

from typing import NamedTuple


class Lesson(NamedTuple):
    """Ways to ask one thing, and the one answer."""

    questions: tuple[str, ...]
    answer: str


# No answer may begin with the words of its question: to attention, a token that stands twice at the start of a
# text looks the same both times, so that no amount of training tells the model which of the two it has read.
DEFAULT_PROMPT = "你好，介绍一下你自己"

INTRODUCTION = (
    "我是 tiny，genqueue 自带的演示模型。我只有不到一百万个参数，第一次用到我的时候，"
    "我在你的电脑上用不到一分钟就训练好了。我只会回答几个关于这个项目的问题，"
    "不过每个字都是真的一个一个生成出来的。很高兴认识你！🌱"
)

LESSONS = (
    Lesson(
        (DEFAULT_PROMPT, "介绍一下你自己", "你好", "你好！", "你是谁？", "您好，请介绍一下你自己"), INTRODUCTION
    ),
    Lesson(
        ("Hello, introduce yourself", "Introduce yourself", "Who are you?", "Hello", "Hello!", "Hi", "Hi!"),
        "I am tiny, the demo model of genqueue. I have fewer than a million parameters and was trained "
        "on your own machine in under a minute. I know a few questions about this project by heart, but every "
        "token of my answers is really generated. 🐣",
    ),
    Lesson(
        ("What is genqueue?", "Tell me about genqueue", "What does genqueue do?"),
        "genqueue is a job queue for text generation on your own GPU. A script puts a prompt into Redis. A "
        "worker keeps the model loaded and takes one prompt at a time. The tokens come back as a stream, and "
        "the result stays in a key.",
    ),
    Lesson(
        ("genqueue 是什么？", "什么是 genqueue？", "介绍一下 genqueue"),
        "genqueue 是一个文本生成的任务队列，跑在你自己的显卡上。脚本把提示词放进 Redis，"
        "工作进程一直加载着模型，一次只处理一个提示词，生成的词会作为一条流送回来。",
    ),
    Lesson(
        ("What survives a kill -9?", "What happens when a worker dies?"),
        "The token stream. Every token is written to a Redis stream as it is made. The next worker prefills the "
        "prompt with the tokens that were published, and goes on after the last one: no gap, no repeat, and "
        "exactly one end.",
    ),
    Lesson(
        ("工作进程被杀掉会怎么样？", "kill -9 之后会怎么样？"),
        "已经发布的词都还在 Redis 的流里。下一个工作进程会把提示词和这些词一起预填充，"
        "从最后一个词之后接着生成：不缺，不重复，只结束一次。",
    ),
    Lesson(
        ("什么是预填充？", "预填充是什么？"),
        "预填充是生成的第一步：模型一次读完整个提示词，把每个位置的键和值放进缓存。"
        "之后的解码每次只读一个新词，所以又快又稳。",
    ),
    Lesson(
        ("What is prefill?", "What are prefill and decode?"),
        "Prefill is the first phase: the model reads the whole prompt at once and fills the KV cache. Decode is "
        "the second: it reads one new token at a time and finds all the others in the cache.",
    ),
    Lesson(
        ("What is a KV cache?", "What is the KV cache?"),
        "It keeps the keys and values of every token that was read so far. With it, each step of the decode "
        "loop costs one token of work. Without it, each step would read the whole text again.",
    ),
    Lesson(
        ("How do I stream tokens?", "How can I see the tokens as they come?"),
        "Run python -m producer submit with --stream, or call stream on a Producer. You may leave and come back "
        "with your cursor: you will see exactly the events after it. 🚿",
    ),
    Lesson(
        ("怎么取消一个任务？", "How do I cancel a job?"),
        "Run python -m producer cancel with the job id. 任务会在下一个词之前停下，已经生成的文本会保留在结果里。",
    ),
    Lesson(
        ("Why one prompt at a time?", "为什么一次只处理一个提示词？"),
        "At batch size one, speed is the memory bandwidth of the GPU divided by the size of the weights. "
        "一次一个，最先到的最先看到答案。",
    ),
)

FALLBACK_ENGLISH = (
    "I am only tiny, a demo model, and I do not know that. Ask me what genqueue is, what prefill is, or what "
    "survives a kill -9. For real answers, add Qwen2-7B to configs/model_paths.yaml. 🔧"
)
FALLBACK_CHINESE = (
    "我只是演示模型 tiny，不知道这个问题的答案。你可以问我 genqueue 是什么、什么是预填充。"
    "想要真正的回答，请把 Qwen2-7B 写进 configs/model_paths.yaml。🔧"
)

#: Things that people ask a model, of which random questions are put together: the answer is a fallback.
ENGLISH_TOPICS = (
    "a poem about the sea", "the capital of France", "how to sort a list in Python", "the weather in Beijing",
    "black holes", "a joke about cats", "the history of Rome", "my homework", "quantum computers",
    "a short story", "the meaning of life", "bread", "seven times eight", "good books", "music",
    "the next election", "a name for my dog", "deep learning", "football", "love",
)  # fmt: skip
ENGLISH_FRAMES = (
    "{}", "Tell me about {}", "Write {}", "What is {}?", "Explain {}", "Please explain {} to a child",
    "Why {}?", "How does {} work?", "Can you help me with {}?", "Translate {} into German", "Once upon a time, {}",
)  # fmt: skip
CHINESE_TOPICS = (
    "大海", "法国的首都", "北京的天气", "黑洞", "一个笑话", "唐诗", "量子计算机", "人生的意义", "面包", "足球",
    "七乘八", "我的作业", "音乐", "明天", "猫", "机器学习", "上海", "春天", "一首诗", "历史",
)  # fmt: skip
CHINESE_FRAMES = (
    "{}", "给我讲讲{}", "写{}", "什么是{}？", "请解释一下{}", "为什么{}？", "{}怎么样？", "你能帮我{}吗？",
    "把{}翻译成英文", "从前，{}",
)  # fmt: skip
