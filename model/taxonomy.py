"""The labels: actions, and the body parts they belong to. Their numbers and names come from a bundle."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Body(BaseModel):
    """A body part: the coarse level."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: int = Field(ge=0)
    code: str = Field(min_length=1)
    name: str = Field(min_length=1)


class Action(BaseModel):
    """A micro-action: the fine level. Its `id` is the network's class index."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: int = Field(ge=0)
    code: str = Field(min_length=1)
    name: str = Field(min_length=1)
    body_id: int = Field(ge=0)


class Taxonomy(BaseModel):
    """Both levels; ids count from 0 in the order listed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bodies: tuple[Body, ...] = Field(min_length=1)
    actions: tuple[Action, ...] = Field(min_length=1)

    @property
    def body_of(self) -> tuple[int, ...]:
        """The body part of each action: body level is every action's segment under this id (paper, section 4.1)."""
        return tuple(action.body_id for action in self.actions)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, labels in (("body", self.bodies), ("action", self.actions)):
            if [label.id for label in labels] != list(range(len(labels))):
                raise ValueError(f"{kind} ids must count 0, 1, 2 ... in the order listed")
            if len({label.code for label in labels}) != len(labels):
                raise ValueError(f"{kind} codes must differ from each other")
        if unknown := {action.body_id for action in self.actions} - {body.id for body in self.bodies}:
            raise ValueError(f"actions name body parts that are not listed: {sorted(unknown)}")
        return self
