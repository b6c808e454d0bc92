"""How what workers write is read: immutable, and what is not known here is passed over."""

from pydantic import BaseModel, ConfigDict


class Tolerant(BaseModel):
    """Base of what workers write: immutable, and what a later version adds is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)  # it can be an answer
