"""docker-compose.yml, Dockerfile, .env.example and .github/, checked without what reads them.

The schema and the linter see the form. What they cannot see is asserted here: that the commands exist, that the
broker takes its options, and that nothing is open, writable or killed that should not be.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from producer.broker.embedded import EmbeddedBroker
from tests.documents import Document
from worker.cli import EXIT_BAD_INPUT, run
from worker.settings import WorkerSettings

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
SECRETS = {"REDIS_PASSWORD": "s3cret", "DASHBOARD_PASSWORD": "s3same"}
GIVEN = {**SECRETS, "MODEL_DIR": "/srv/qwen"}


def interpolate(text: str, given: dict[str, str]) -> str:
    """As compose does it: `${A:-default}`, and `${A:?message}`, which fails when A is empty."""

    def value(match: re.Match[str]) -> str:
        if found := given.get(match["name"]):
            return found
        if match["kind"] == "-":
            return str(match["rest"])
        raise ValueError(f"{match['name']} is required")

    return VARIABLE.sub(value, text)


def compose(**given: str) -> dict[str, Any]:
    """The compose file with its variables filled in."""
    # Comments first: they may speak of variables.
    lines = (re.sub(r"(^|\s)#.*", "", line) for line in (ROOT / "docker-compose.yml").read_text().splitlines())
    loaded: dict[str, Any] = yaml.safe_load(interpolate("\n".join(lines), {**GIVEN, **given}))
    return loaded


@pytest.fixture
def services() -> dict[str, Any]:
    """The services, as `docker compose up` sees them with the variables of a filled-in .env."""
    services: dict[str, Any] = compose()["services"]
    return services


def seconds(duration: str) -> float:
    """Of a compose duration with one unit."""
    return float(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def run_tool(name: str, *arguments: str) -> None:
    """Run a linter of the dev extra on files of the repository."""
    tool = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert tool, f"{name} is missing: pip install 'genqueue[dev]'"
    done = subprocess.run([tool, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_file_fits_the_specification() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


def test_dockerfile_passes_hadolint() -> None:
    run_tool("hadolint", "Dockerfile")


def test_the_issue_forms_fit_their_schemas() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) > 1
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *map(str, forms))
    config = ".github/ISSUE_TEMPLATE/config.yml"
    run_tool("check-jsonschema", "--builtin-schema", "vendor.github-issue-config", config)


def test_pre_commit_configuration_is_valid() -> None:
    run_tool("pre-commit", "validate-config", ".pre-commit-config.yaml")


@pytest.mark.parametrize("missing", GIVEN)
def test_passwords_and_the_model_folder_are_required(missing: str) -> None:
    mentions = VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())
    assert {match["kind"] for match in mentions if match["name"] == missing} == {"?"}
    with pytest.raises(ValueError, match=f"{missing} is required"):
        compose(**{missing: ""})


def test_env_example_names_every_variable_and_leaves_the_required_ones_empty() -> None:
    used = {match["name"] for match in VARIABLE.finditer((ROOT / "docker-compose.yml").read_text())}
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert {line.lstrip("#").split("=")[0] for line in lines if "=" in line and " " not in line} == used
    assert {line for line in lines if line.endswith("=")} == {f"{name}=" for name in GIVEN}


def test_ports_are_published_on_loopback_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert len(published) == 3
    assert all(str(port).startswith("127.0.0.1:") for port in published), published
    assert not any("network_mode" in service for service in services.values())


def test_broker_takes_its_options(services: dict[str, Any]) -> None:
    server, *options = services["redis"]["command"]
    assert server == "redis-server"
    with EmbeddedBroker(options=tuple(options)) as broker:
        with redis.Redis(port=broker.port) as anyone, pytest.raises(redis.AuthenticationError):
            anyone.ping()
        with redis.Redis(port=broker.port, password=SECRETS["REDIS_PASSWORD"]) as client:
            config = client.config_get()
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "everysec"
    assert config["maxmemory-policy"] == "noeviction"
    assert int(config["maxmemory"]) > 0


def test_brokers_health_check_logs_in(services: dict[str, Any]) -> None:
    assert services["redis"]["environment"]["REDISCLI_AUTH"] == SECRETS["REDIS_PASSWORD"]
    assert services["redis"]["volumes"] == ["redis-data:/data"]


@pytest.mark.parametrize("name", ["worker", "dashboard", "gateway"])
def test_services_wait_for_the_broker_and_log_in(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert service["environment"]["GENQUEUE_REDIS_URL"] == f"redis://:{SECRETS['REDIS_PASSWORD']}@redis:6379/0"


@pytest.mark.parametrize(
    ("name", "path"),
    [("worker", "command"), ("worker", "healthcheck"), ("dashboard", "command"), ("gateway", "command")],
)
def test_commands_exist_with_these_options(services: dict[str, Any], name: str, path: str) -> None:
    command = services[name][path]
    if path == "healthcheck":
        command = command["test"][1:]
    assert command[:2] == ["python", "-m"]
    # Click refuses an unknown option before it looks at --help.
    done = subprocess.run(
        [sys.executable, *command[1:], "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_probe_asks_for_the_worker_in_its_own_container(services: dict[str, Any]) -> None:
    """Another one that serves the model must not make a worker that has failed look well."""
    assert "--local" in services["worker"]["healthcheck"]["test"]


def test_dashboard_asks_for_a_password(services: dict[str, Any]) -> None:
    assert services["dashboard"]["environment"]["GENQUEUE_DASHBOARD_PASSWORD"] == SECRETS["DASHBOARD_PASSWORD"]


def test_gateway_starts_where_it_is_asked_for_and_not_without_its_keys(services: dict[str, Any]) -> None:
    gateway = services["gateway"]
    assert gateway["profiles"] == ["gateway"]
    [keys] = gateway["volumes"]
    assert gateway["command"][-2:] == ["--api-keys", keys["target"]]
    assert (keys["read_only"], keys["bind"]) == (True, {"create_host_path": False})


def test_worker_cannot_write_to_the_host(services: dict[str, Any]) -> None:
    model, kernels = services["worker"]["volumes"]
    assert (model["type"], model["source"], model["read_only"]) == ("bind", GIVEN["MODEL_DIR"], True)
    assert kernels == "kernels:/var/cache/genqueue"


def test_worker_finds_its_compiled_kernels_again() -> None:
    """The image says where they go, and its user may write there: a new volume takes that over."""
    worker = Path("Dockerfile").read_text().partition("AS worker\n")[2]
    assert "TORCHINDUCTOR_CACHE_DIR=/var/cache/genqueue" in worker
    assert "RUN install --directory --owner=10001 /var/cache/genqueue" in worker.partition("USER")[0]


def test_worker_reads_the_files_that_it_is_given() -> None:
    """A file that is mounted where nothing looks is ignored in silence."""
    file = compose()
    worker = file["services"]["worker"]
    targets = {config["source"]: config["target"] for config in worker["configs"]}
    environment = worker["environment"]
    assert targets == {
        "model_paths": environment["GENQUEUE_MODEL_PATHS"],
        "worker_settings": environment["GENQUEUE_CONFIG"],
    }
    assert (ROOT / file["configs"]["worker_settings"]["file"]).samefile(ROOT / "configs" / "worker.yaml")


@pytest.mark.parametrize("path", ["command", "healthcheck"])
def test_worker_and_its_probe_take_their_settings_from_the_environment(
    services: dict[str, Any], path: str, tmp_path: Path
) -> None:
    """Both run as in the container, far from any checkout, with the variables of the compose file."""
    worker = services["worker"]
    command = worker["healthcheck"]["test"][1:] if path == "healthcheck" else worker["command"]
    given = {**worker["environment"], "GENQUEUE_CONFIG": str(tmp_path / "mounted.yaml")}
    (tmp_path / "mounted.yaml").write_text("no_such_option: 1")
    done = subprocess.run(
        [sys.executable, *command[1:]],
        cwd=tmp_path,
        env={**os.environ, **given, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{tmp_path / 'mounted.yaml'}): no_such_option: " in done.stderr


@pytest.mark.parametrize("model_name", ["", "qwen2_0.5b"])
def test_worker_finds_the_mounted_model_by_its_name(model_name: str) -> None:
    file = compose(MODEL_NAME=model_name)
    worker = file["services"]["worker"]
    paths = yaml.safe_load(file["configs"]["model_paths"]["content"])
    model, _ = worker["volumes"]
    assert model["source"] == GIVEN["MODEL_DIR"]
    assert paths == {model_name or "qwen2_7b": model["target"]}
    assert worker["command"][worker["command"].index("--model-name") + 1] in paths
    assert worker["healthcheck"]["test"][-1] in paths


def test_worker_has_one_gpu() -> None:
    worker = compose(GPU_ID="3")["services"]["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["3"], "capabilities": ["gpu"]}
    assert worker["command"][-2:] == ["--device", "cuda:0"]


def test_worker_is_not_killed_before_its_own_grace_has_passed(services: dict[str, Any]) -> None:
    fields = WorkerSettings.model_fields
    needed_s = fields["shutdown_grace_s"].default + fields["engine_stop_s"].default
    assert seconds(services["worker"]["stop_grace_period"]) > needed_s


def test_the_unit_for_systemd_starts_a_worker_and_gives_it_time() -> None:
    [unit] = Document("worker/README.md").blocks("How it leaves", "ini")
    entries = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    fields = WorkerSettings.model_fields
    needed_s = fields["shutdown_grace_s"].default + fields["engine_stop_s"].default
    assert int(entries["TimeoutStopSec"]) > needed_s
    assert entries["RestartPreventExitStatus"] == str(EXIT_BAD_INPUT)
    program, command, *options = entries["ExecStart"].split()
    assert (Path(program).name, command) == ("genqueue-worker", "run")
    # As in its program: a command keeps the names of its help option that it was asked with first.
    given = run.make_context("run", options, help_option_names=["-h", "--help"]).params
    assert (given["device"], given["name"]) == ("cuda:%i", "gpu%i")


def test_images_run_as_another_user_than_root_and_take_signals() -> None:
    instructions = [line.split(maxsplit=1) for line in (ROOT / "Dockerfile").read_text().splitlines() if line]
    stages: dict[str, list[list[str]]] = {}
    for name, *rest in instructions:
        if name == "FROM":
            stages[rest[0].split()[-1]] = []
        elif stages:
            stages[list(stages)[-1]].append([name, *rest])
    assert ["STOPSIGNAL", "SIGTERM"] in stages["base"]
    for target in ("producer", "worker"):
        assert ["USER", "10001"] in stages[target]
        assert all(rest[0].startswith("[") for name, *rest in stages[target] if name in {"CMD", "ENTRYPOINT"})


def test_builder_is_sent_what_the_images_copy_and_no_secret() -> None:
    first, *rest = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert first == "*"
    assert {line[1:] for line in rest if line.startswith("!")} == {
        name for names in copied for name in names.split()
    }


def test_users_of_redis_are_given_no_command_that_redis_7_0_does_not_know() -> None:
    """It would not start with the file."""
    rules = [
        line for line in (ROOT / "configs" / "redis.acl").read_text().splitlines() if not line.startswith("#")
    ]
    named = {
        word.lstrip("(+-").rstrip(")") for line in rules for word in line.split() if word.lstrip("(")[:1] in "+-"
    }
    later = {
        *("client|setinfo", "client|no-touch", "client|capa", "client|import-source", "waitaof", "expirememory"),
        *("hexpire", "hpexpire", "hpersist", "httl", "hpttl", "hgetdel", "hgetex", "hsetex", "xackdel", "xdelex"),
    }
    assert named & later == set()
    assert {"eval", "hset", "client|list"} <= named
