"""WorkerSettings: every option of a worker, defined once.

An option comes from the command line, else from a GENQUEUE_… environment variable, else from the YAML file
(`configs/worker.yaml`), else from the default here. An unknown key in the file stops the worker at its start.
Name and folder of the model are one choice: where one of them is given, the other is not looked for further down.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

from producer.broker.options import DEFAULT_REDIS_URL, Prefix, RedisUrl, Seconds, WholeSeconds
from producer.contract import InvalidRequest
from producer.contract.keys import DEFAULT_PREFIX, model_name_of_folder
from producer.contract.refusals import Names
from producer.contract.requests import faults_of

from .engine_options import Dtype, EngineOptions
from .errors import ConfigError
from .logs import LogFormat, LogLevel
from .models.config_loader import config_files, expanded, find_config_file

SETTINGS_FILE = "worker.yaml"
DAY_S = 86_400


class WorkerSettings(BaseSettings):
    """Frozen; units stand in the names."""

    model_config = SettingsConfigDict(
        env_prefix="GENQUEUE_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        loc_by_alias=False,  # else a wrong redis_url in the file is blamed on GENQUEUE_REDIS_URL
    )

    config_file: ClassVar[Path | None] = None

    redis_url: RedisUrl = DEFAULT_REDIS_URL
    prefix: Prefix = DEFAULT_PREFIX
    broker_wait_s: Seconds = 30.0
    """For Redis at the start, and for one that cannot serve a running worker. Then it ends with exit code 3."""

    model_name: str
    """A name of the model paths file; with model_path, the name of its queue, which is the folder's own else."""
    model_path: Path | None = None
    """A model folder, for which no model paths file is needed."""
    model_paths: Path | None = None
    """None: configs/model_paths.yaml of the current folder, else of the checkout."""
    device: str = "cuda:0"
    dtype: Dtype = "auto"
    engine: EngineOptions = EngineOptions()
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads for torch. None: one for a model that fits into the cache, else torch's own choice."""

    name: str | None = None
    """Stem of the worker's name; a suffix makes it unique for each start. None: `genqueue`."""
    heartbeat_interval_s: Seconds = 2.0
    heartbeat_ttl_s: WholeSeconds = 6
    """A worker that is silent for this long counts as dead, and its jobs go to another."""
    shutdown_grace_s: Seconds = 30.0
    """After SIGTERM the running job may go on for this long; then it is put back into its queue."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """A job over which workers and engines have died this often ends as `worker_lost`."""
    group_max_running: Annotated[int, Field(ge=1)] | None = None
    """So many jobs of one group run at a time on all workers of the model, which are to be set alike; the jobs
    without a group are one more. None: any number."""
    engine_start_s: Seconds = 3600.0
    """An engine that has not loaded its model within this time has failed to start."""
    engine_stop_s: Seconds = 60.0
    """An engine that does not stop within this time when told to is killed and started anew."""

    preempt: Literal["off", "low", "all"] = "low"
    """Which running jobs make way for one of a higher priority: none, those of low priority, or these and those of
    normal priority."""
    max_preemptions: Annotated[int, Field(ge=0)] = 50
    """A job that has made way so often on one worker runs to its end."""
    max_parked_s: Seconds = 600.0
    """As does one that has waited for so long in all."""

    result_ttl_s: WholeSeconds = 3600
    """How long the events and the result of a job stay, where the job itself does not say."""
    max_result_ttl_s: WholeSeconds = 7 * DAY_S
    """The bound for jobs that ask for more, and how long the list of what a dead worker held is kept at least."""
    max_job_timeout_s: Seconds = 3600.0
    """The bound for jobs that ask for more, or for no bound at all."""
    max_request_bytes: Annotated[int, Field(gt=0)] = 16 * 2**20
    """A larger job is refused before it is unpacked or parsed."""

    cancel_poll_s: Seconds = 0.05
    progress_interval_s: Seconds = 1.0
    maintenance_interval_s: Seconds = 60.0

    allowed_callbacks: tuple[str, ...] = ()
    """Dotted names that RQ's on_success, on_failure and on_stopped may name. They run inside the worker."""
    allowed_webhooks: tuple[str, ...] = ()
    """Beginnings of URLs that RQ's webhooks may call from the worker, as in https://hooks.example.org/."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port for Prometheus; None: no metrics server. 0: any free port, named in the log."""
    metrics_host: str = "127.0.0.1"
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    """json: one object a line, with time, level, logger and message, and job_id where it is about a job."""

    @model_validator(mode="before")
    @classmethod
    def _name_the_model(cls, given: dict[str, Any]) -> dict[str, Any]:
        """From its folder, where it has no other name."""
        if given.get("model_name"):
            return given
        if not given.get("model_path"):
            raise ValueError(
                "model_name is missing: give --model-name NAME (GENQUEUE_MODEL_NAME), which is in the model paths "
                "file, or --model-path FOLDER (GENQUEUE_MODEL_PATH)"
            )
        if not isinstance(given["model_path"], str | Path):
            return given  # which is said of model_path itself
        try:
            return {**given, "model_name": model_name_of_folder(expanded(Path(given["model_path"])))}
        except (ConfigError, InvalidRequest) as error:
            raise ValueError(str(error)) from None

    @property
    def keep_held_s(self) -> int:
        """How long the list of what a worker holds is kept: for longer than a job may run, so that it is found."""
        return max(self.max_result_ttl_s, round(self.max_job_timeout_s + self.max_parked_s) + DAY_S)

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        """A worker must beat before its record expires, and what it held must be there when it counts as dead."""
        if self.heartbeat_interval_s >= self.heartbeat_ttl_s:
            raise ValueError(
                f"heartbeat_interval_s ({self.heartbeat_interval_s:g}) must be below heartbeat_ttl_s "
                f"({self.heartbeat_ttl_s}), or live workers count as dead: make it a third of the TTL"
            )
        if self.heartbeat_ttl_s >= self.max_result_ttl_s:
            raise ValueError(
                f"max_result_ttl_s ({self.max_result_ttl_s}) must be above heartbeat_ttl_s "
                f"({self.heartbeat_ttl_s}), or a dead worker's jobs are gone before they are put back: raise it"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic-settings'
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over YAML."""
        file = YamlConfigSettingsSource(settings_cls, yaml_file=cls.config_file)
        return init_settings, _OneModel(env_settings), _OneModel(file)


class _OneModel(PydanticBaseSettingsSource):
    """A source whose model counts only where those before it have named none, neither by name nor by folder."""

    def __init__(self, source: PydanticBaseSettingsSource) -> None:
        super().__init__(source.settings_cls)
        self._source = source

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The source's own."""
        return self._source.get_field_value(field, field_name)

    def __call__(self) -> dict[str, Any]:
        """The source's values."""
        values = self._source()
        if _MODEL & self.current_state.keys():
            return {name: value for name, value in values.items() if name not in _MODEL}
        return values


_MODEL = frozenset(["model_name", "model_path"])


def load_settings(config_file: Path | None = None, **options: Any) -> WorkerSettings:
    """Settings for one worker.  options: those given on the command line; a None is one not given.

    config_file: None takes configs/worker.yaml of the current folder, else of the checkout, where there is one.
    Raises ConfigError that names the file and the key.
    """
    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"there is no settings file {config_file}: correct --config or GENQUEUE_CONFIG")
    file = config_file or find_config_file(SETTINGS_FILE)
    settings_class = type("WorkerSettings", (WorkerSettings,), {"config_file": file})
    given = {key: value for key, value in options.items() if value is not None}
    try:
        settings: WorkerSettings = settings_class(**given)
    except ValidationError as error:
        faults = faults_of(error, Names(tuple(WorkerSettings.model_fields)))
        raise ConfigError(f"settings (command line, environment or {_place(file)}): {faults}") from None
    except SettingsError as error:
        raise ConfigError(f"GENQUEUE_…: {error}; lists and mappings are JSON, as in '[\"a.b\"]'") from None
    except Exception as error:
        raise ConfigError(f"{file} cannot be read as YAML: {error}") from error
    return settings


def _place(file: Path | None) -> str:
    looked_for = " and ".join(map(str, config_files(SETTINGS_FILE)))
    return str(file) if file else f"a settings file, of which there is none: looked for {looked_for}"
