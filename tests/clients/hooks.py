"""What schemathesis is told beside the document: which model there is. It is loaded where the clients are."""

from typing import Any

import schemathesis

MODEL = "tiny"


@schemathesis.hook
def before_call(_: Any, case: Any, __: Any) -> None:
    """Of a name that is a text, as the document wants it, make that of the model."""
    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str) and case.body["model"]:
        case.body["model"] = MODEL
