"""`python -m tests.captures --to FOLDER`: run, look, and say what a program can tell of it."""

import os
import shutil
import sys
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import click
import redis

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.browser import BINARIES, INSTALL, open_browser
from tests.dashboard_jobs import MODEL_QUEUE, make_jobs
from tests.integration.dashboard_process import dashboard
from tests.integration.worker_process import WorkerProcess
from tests.models import tiny_model_paths

from .gateway_page import take_gateway_page
from .scenes import PROMPT, Scene, at_work, bare, helps, with_many, wrong
from .terminal import capture

COLUMNS = (80, 120)
WIDTHS = (800, 1280)
SCHEMES = ("light", "dark")


@click.command()
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), default="captures", show_default=True)
@click.option("--only", default="", help="Scenes whose line has these words in it.")
@click.option(
    "--pages/--no-pages", default=True, help="The dashboard and the gateway's page as well, by Chromium."
)
@click.option("--commands/--no-commands", default=True, help="The commands.")
def main(to: Path, only: str, pages: bool, commands: bool) -> None:
    """Write what a person sees into a folder, and the faults that can be told to stdout."""
    if pages and not any(map(shutil.which, BINARIES)):
        raise click.ClickException(f"no chromium on the PATH: {INSTALL}; or --no-pages")
    to.mkdir(parents=True, exist_ok=True)
    with EmbeddedBroker() as broker:
        if commands:
            take_commands(to, only, broker.url)
        if pages:
            take_pages(to, broker.url)
            take_gateway_page(to.resolve())


def take_commands(to: Path, only: str, redis_url: str) -> None:
    """Each scene at each width."""
    worker = WorkerProcess(redis_url, tiny_model_paths(), to / "worker.log")
    try:
        worker.wait_until_ready()
        with Producer(redis_url) as producer:
            ended = producer.submit(PROMPT, model="tiny")
            ended.result()
            for columns in COLUMNS:
                waiting = producer.submit("Hi", model="nobody-serves-this")
                ours = at_work(redis_url, ended.job_id, waiting.job_id)
                take(to, chain(helps(), bare(), wrong(), ours, with_many(redis_url, to)), columns, only)
    finally:
        worker.stop()


def take(to: Path, scenes: Iterable[Scene], columns: int, only: str) -> None:
    """Run and keep them, and say what is wrong with them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GENQUEUE_", "REDIS_URL"))}
    kept = {**kept, "GENQUEUE_MODEL_PATHS": str(tiny_model_paths()), "PYTHONPATH": os.pathsep.join(sys.path)}
    for number, scene in enumerate(scenes):
        if only not in scene.shown_as:
            continue
        command = [sys.executable, "-m", scene.module, *scene.arguments]
        environment = {**kept, **dict(scene.environment)}
        taken = capture(
            command, columns, environment, shown_as=scene.shown_as, until=scene.until, limit_s=scene.limit_s
        )
        words = "-".join(word.strip("-") for word in scene.arguments[:2] if word.isascii() and "/" not in word)
        taken.save(to / f"{scene.program}-{columns}-{number:03}-{words}".replace(" ", "-"))
        for fault in taken.faults(has_records=scene.has_records):
            click.echo(f"{columns} columns: {scene.shown_as}: {fault}")


def take_pages(to: Path, redis_url: str) -> None:
    """Each page of the dashboard at each width, light and dark; and without a server."""
    with redis.from_url(redis_url) as client:
        client.flushall()
        make_jobs(client)
    with dashboard(redis_url) as address, dashboard("redis://127.0.0.1:1/0") as lost:
        pages = {
            "queues": f"{address}/",
            "workers": f"{address}/0/view/workers",
            **{f"job-{name}": f"{address}/0/view/job/{name}" for name in ("done", "failed", "stopped", "running")},
            **{
                f"jobs-{name}": f"{address}/0/view/jobs/{MODEL_QUEUE}/{name}/8/asc/1"
                for name in ("queued", "failed", "canceled")
            },
            "job-gone": f"{address}/0/view/job/gone",
            "no-redis": f"{lost}/",
        }
        for scheme in SCHEMES:
            browser = open_browser(to / f"profile-{scheme}", dark=scheme == "dark")
            for width in WIDTHS:
                for name, url in pages.items():
                    browser.screenshot(url, to.resolve() / f"page-{name}-{width}-{scheme}.png", width=width)


if __name__ == "__main__":
    main()
