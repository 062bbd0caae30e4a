"""The label taxonomy of a bundle: actions, and the body parts that they belong to."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Base class of all parts of a manifest. Frozen and strict: an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Label(Section):
    """A label of either level."""

    id: int = Field(ge=0)
    code: str = Field(min_length=1)
    name: str = Field(min_length=1)


class Body(Label):
    """A body part: a label of the coarse level."""


class Action(Label):
    """A micro-action: a label of the fine level. Its `id` is the network's class index."""

    body_id: int = Field(ge=0)


class Taxonomy(Section):
    """The labels of both levels; ids count from 0 in the order listed."""

    bodies: tuple[Body, ...] = Field(min_length=1)
    actions: tuple[Action, ...] = Field(min_length=1)

    @property
    def body_ids(self) -> tuple[int, ...]:
        """The body id of each action. At body level, an action's segment has this label (MMAD paper, section 4.1)."""
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
