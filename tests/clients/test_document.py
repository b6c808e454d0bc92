"""What the OpenAPI document lets be asked, and what it does not, made up by schemathesis: `make test-clients`."""

import re
from pathlib import Path

import pytest

from producer.testing import ScriptedWorker
from tests.unit.producer.gateway.conftest import opened_live

from .test_clients import python_of_clients, said_by

pytestmark = pytest.mark.long

CASES = 1_000
"""At least: so many an operation that there are more in all."""
AN_OPERATION = 30
TIMEOUT_S = 1_700
BETWEEN_FIELDS = "positive_data_acceptance"
"""Left out: what fields say of one another, as tool_choice of tools, a document cannot say."""


@pytest.mark.timeout(TIMEOUT_S + 60)
async def test_answers_are_of_the_document(genqueue_worker: ScriptedWorker, tmp_path: Path) -> None:
    """No 500, no answer of another form; what the document forbids is refused, what was deleted is gone."""
    schemathesis = Path(python_of_clients()).with_name("schemathesis")
    genqueue_worker.serves("tiny")
    async with opened_live() as door:
        url = door.url.removesuffix("/v1")
        said = await said_by(
            *(str(schemathesis), "run", f"{url}/openapi.json", "--no-color"),
            *("--max-examples", str(AN_OPERATION), "--seed", "1", "--phases", "examples,coverage,fuzzing"),
            *("--exclude-checks", BETWEEN_FIELDS, "--continue-on-failure", "--request-timeout", "100"),
            *("--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none"),
            folder=tmp_path,
            timeout_s=TIMEOUT_S,
            SCHEMATHESIS_HOOKS="hooks",
            PYTHONPATH=str(Path(__file__).parent),
        )
    [made] = re.findall(r"(\d+) generated", said)
    assert int(made) >= CASES
