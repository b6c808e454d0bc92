"""How the contract's models are read: immutable, unknown fields refused, no number out of a text."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Strict = Field(strict=True)
Int = Annotated[int, Strict]
Float = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Frozen(BaseModel):
    """Base of every model of the contract: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)  # it can be a prompt
