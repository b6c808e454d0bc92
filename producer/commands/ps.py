"""`ps` and `models`: what goes on in the queues, once or again and again."""

import contextlib
import math
import time
from collections.abc import Iterable, Iterator

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..client import Producer
from ..contract import GenqueueError
from ..eta import about
from ..job_status import Progress, WorkerInfo
from ..overview_values import ModelOverview, Overview, RunningJob
from ..printable import printable
from .options import connection_options, json_option
from .output import say, show

_model_option = click.option("--model-name", help="That model alone. [default: all of the prefix]")


def _a_number(_: click.Context, __: click.Parameter, value: float) -> float:
    """click takes nan for in every range."""
    if math.isnan(value):
        raise click.BadParameter("it is a number of seconds.")
    return value


@click.command()
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval-s",
    type=click.FloatRange(0.1, 86_400),
    callback=_a_number,
    default=1.0,
    show_default=True,
    help="Between two looks.",
)
@_model_option
@json_option
@connection_options
def ps(
    *,
    watch: bool,
    interval_s: float,
    model_name: str | None,
    as_json: bool,
    redis_url: str | None,
    prefix: str | None,
) -> int:
    """Show workers, and jobs that wait, run and have ended.

    With --json: one object, with --watch one a line.
    """
    with Producer(redis_url, prefix=prefix) as producer:
        if not watch:
            _print(producer.overview(model_name), as_json=as_json)
        elif as_json or not Console().is_terminal:
            _follow_in_lines(producer, model_name, interval_s, as_json=as_json)
        else:
            _follow_on_screen(producer, model_name, interval_s)
    return 0


@click.command()
@_model_option
@json_option
@connection_options
def models(*, model_name: str | None, as_json: bool, redis_url: str | None, prefix: str | None) -> int:
    """List the models that have live workers, or jobs that wait.

    With --json: one object a line, with all that `ps` knows of a model.
    """
    with Producer(redis_url, prefix=prefix) as producer:
        seen = producer.overview(model_name)
    known = [each for each in seen.models if each.workers or each.queued or each.running]
    if as_json:
        show("".join(each.model_dump_json() + "\n" for each in known))
    elif known:
        _show(_models_table(known))
    else:
        say("no model has a live worker, or a job that waits: start one, as genqueue-worker run --model-name NAME")
    return 0


def _follow_in_lines(producer: Producer, model_name: str | None, interval_s: float, *, as_json: bool) -> None:
    while True:
        with _outage_said():
            _print(producer.overview(model_name), as_json=as_json)
            if not as_json:
                show("\n")
        time.sleep(interval_s)


@contextlib.contextmanager
def _outage_said() -> Iterator[None]:
    try:
        yield
    except GenqueueError as error:
        say(str(error))


def _follow_on_screen(producer: Producer, model_name: str | None, interval_s: float) -> None:
    from rich.live import Live

    # The last look stays above the prompt once it is over.
    with Live(console=Console(), auto_refresh=False, vertical_overflow="ellipsis") as live:
        while True:
            try:
                shown: RenderableType = _rendered(producer.overview(model_name))
            except GenqueueError as error:
                shown = _text(str(error))
            live.update(shown, refresh=True)
            time.sleep(interval_s)


def _print(seen: Overview, *, as_json: bool) -> None:
    if as_json:
        show(seen.model_dump_json(exclude={"models": {"__all__": {"waiting_jobs"}}}) + "\n")
    else:
        _show(_rendered(seen))


def _show(shown: RenderableType) -> None:
    """Through `show`, as whoever reads it may have gone."""
    console = Console()
    with console.capture() as captured:
        console.print(shown)
    show(captured.get())


def _rendered(seen: Overview) -> RenderableType:
    if not seen.models:
        return _text("no queue and no worker is known here: submit a job, or start a worker")
    parts: list[RenderableType] = []
    if seen.suspended:
        parts.append(_text("suspended through RQ: no worker takes a job until `rq resume`", style="bold yellow"))
    for model in seen.models:
        parts += [*([Text("")] if parts else []), *_model(model)]
    return Group(*parts)


def _model(model: ModelOverview) -> Iterable[RenderableType]:
    yield Text.assemble((printable(model.model), "bold"), "  ", _counts(model))
    if model.workers:
        yield _workers_table(model.workers)
    elif model.queued:
        yield _text(f"no live worker serves {model.model}", style="yellow")
    if model.groups:
        yield _groups_table(model)
    if model.running:
        yield _running_table(model)
    if model.ended:
        yield _ended_table(model)


def _counts(model: ModelOverview) -> str:
    """`12 waiting (3 high, oldest 4 s; 9 normal, oldest 12 s), 1 running, 27 done; empty in about 2 min`."""
    lines = []
    for each in model.waiting:
        of = [] if len(model.waiting) == 1 and each.priority == "normal" else [f"{each.count} {each.priority}"]
        lines.append(", ".join([*of, *([] if each.oldest_s is None else [f"oldest {_span(each.oldest_s)}"])]))
    waiting = f"{model.queued} waiting" + (f" ({'; '.join(lines)})" if any(lines) else "")
    ends = {"done": model.finished, "failed": model.failed, "cancelled": model.cancelled}
    ended = [f"{count} {name}" for name, count in ends.items() if count or name == "done"]
    rest = f"; empty in {about(model.empty_in_s)}" if model.empty_in_s else ""
    paused = sum(_is_paused(job) for job in model.running)
    running = [f"{len(model.running) - paused} running", *([f"{paused} paused"] if paused else [])]
    return f"{', '.join([waiting, *running, *ended])}{rest}"


def _is_paused(job: RunningJob) -> bool:
    return job.progress is not None and job.progress.is_paused


def _workers_table(workers: Iterable[WorkerInfo]) -> Table:
    table = _table("WORKER", "STATE", "DEVICE", "HOST", numbers=("S/JOB",))
    for worker in workers:
        _row(
            table,
            worker.name,
            _state(worker),
            worker.device or "",
            worker.hostname or "",
            "" if worker.job_seconds is None else f"{worker.job_seconds:.2g}",
        )
    return table


def _state(worker: WorkerInfo) -> str:
    if worker.is_suspended or worker.model_state == "loading":
        return "suspended" if worker.is_suspended else "loading"
    return worker.state or worker.model_state or ""


def _groups_table(model: ModelOverview) -> Table:
    table = _table("GROUP", numbers=("WAITING",))
    for each in model.groups:
        _row(table, each.group, str(each.count))
    if more := model.groups_waiting - len(model.groups):
        _row(table, f"and {more} more")
    return table


def _running_table(model: ModelOverview) -> Table:
    table = _table("RUNNING", "WORKER", numbers=("TOKENS", "TOKENS/S", "FOR"))
    for job in model.running:
        worker = f"{job.worker or ''}{' (paused)' if _is_paused(job) else ''}"
        _row(table, job.job_id, worker, *_progress(job.progress), _span(job.running_s))
    return table


def _ended_table(model: ModelOverview) -> Table:
    table = _table("ENDED", "HOW", numbers=("TOKENS", "TOKENS/S", "AGO"))
    for job in model.ended:
        _row(table, job.job_id, job.state, *_progress(job.progress), _span(job.ended_s))
    return table


def _models_table(models: Iterable[ModelOverview]) -> Table:
    table = _table("MODEL", "CHAT", numbers=("READY", "LOADING", "SUSPENDED", "CONTEXT", "WAITING", "RUNNING"))
    for model in models:
        states = [_state(worker) for worker in model.workers]
        loading, suspended = states.count("loading"), states.count("suspended")
        templates = {worker.chat_template for worker in model.workers if worker.chat_template is not None}
        contexts = {worker.context_length for worker in model.workers if worker.context_length is not None}
        _row(
            table,
            model.model,
            "/".join("yes" if each else "no" for each in sorted(templates, reverse=True)),
            str(len(states) - loading - suspended),
            str(loading),
            str(suspended),
            "-".join(str(each) for each in sorted({min(contexts), max(contexts)})) if contexts else "",
            str(model.queued),
            str(len(model.running)),
        )
    return table


def _table(*columns: str, numbers: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for at, name in enumerate(columns):  # the first is an id or a name to be copied, and stays whole
        table.add_column(name, overflow="ellipsis", no_wrap=not at)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(_text, cells))


def _progress(progress: Progress | None) -> tuple[str, str]:
    if progress is None:
        return "", ""
    speed = progress.tokens_per_second
    return "" if progress.tokens is None else str(progress.tokens), f"{speed:.1f}" if speed else ""


def _span(seconds: float | None) -> str:
    """`4 s`, `12 min`, `3.5 h`, `2.1 d`."""
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def _text(words: str, style: str = "") -> Text:
    """No markup: anybody may have written it."""
    return Text(printable(words), style=style)
