"""A file of prompts through the queue: `genqueue batch`.

`source`, `reading` and `tables` give records, `rows` and `openai_rows` make requests of them, `identity` their job
ids. `done` and `output` know which have their answer; `feed` reads the others as there is room for them, `runner`
carries them to the queue and waits, `outages` says when Redis is away. `answers` and `openai_answers` are what is
written, `outbox` puts it in order, `progress` is what stderr shows, and `running` puts it all together.
"""
