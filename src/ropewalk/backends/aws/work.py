"""What the steps of prepare and teardown share: where they work, what is stored, and how to tell what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.ec2 import EC2, PART, is_ours, ours, part_of, specification
from ropewalk.backends.aws.infrastructure import owned
from ropewalk.backends.aws.patience import Patience
from ropewalk.backends.aws.tags import as_tags, place_tags
from ropewalk.backends.aws.together import Tell
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["Elsewhere", "Work", "denied"]

_LOST = 10.0
"""Seconds in which the effect of a call whose answer was lost is looked for."""

Elsewhere = Callable[[str], Aws]
"""Makes an :class:`Aws` with the same credentials in another region; its maker closes it."""


def denied(error: BackendError) -> str | None:
    """Return the action that the key may not use, if that is what the error says."""
    action = error.details.get("action")
    return action if isinstance(error, FixItError) and isinstance(action, str) else None


@dataclass(frozen=True, slots=True)
class Work:
    """One run of prepare or teardown."""

    aws: Aws
    place: Place
    settings: AwsSettings
    stored: Sequence[Resource]
    tell: Tell
    patience: Patience = field(default_factory=Patience)
    caller_address: str | None = None
    elsewhere: Elsewhere | None = None
    _forgotten: set[tuple[str, str]] = field(default_factory=set)
    _told: dict[tuple[str, str], Resource] = field(default_factory=dict)

    async def ec2(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return await self.aws.call("ec2", operation, **parameters)

    async def settled(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """Call EC2 about something that was made just now: it may take a moment until EC2 knows it."""
        return await self.patience.insist(lambda: self.ec2(operation, **parameters))

    def known(self, kind: str, *, of_ours: bool = True) -> list[Resource]:
        """Return the stored resources of a kind: those that Ropewalk made, or those that were brought along."""
        found = [item for item in self.stored if item.kind == kind and not item.gone and owned(item) is of_ours]
        return [item for item in found if (kind, item.id) not in self._forgotten]

    def known_ids(self, kind: str) -> list[str]:
        return [item.id for item in self.known(kind)]

    def remembered(self, kind: str, id_: str) -> Mapping[str, Any]:
        """Return the stored details of a resource; empty if it is not stored."""
        return next((item.details for item in self.known(kind) if item.id == id_), {})

    async def has(self, kind: str, id_: str, **details: Any) -> None:
        """Tell that a resource exists, and wait until that is stored. What was told already is not told again."""
        resource = Resource(kind, id_, {name: value for name, value in details.items() if value is not None})
        if self._told.get((kind, id_)) != resource:
            await self.tell(resource)
            self._told[kind, id_] = resource
            self._forgotten.discard((kind, id_))

    def told(self, kind: str, id_: str) -> dict[str, Any]:
        """Return the details that were told of a resource in this run."""
        return dict(self._told[kind, id_].details)

    async def forget(self, kind: str, id_: str, **details: Any) -> None:
        """Tell that a resource is no more."""
        if (kind, id_) not in self._forgotten:
            await self.tell(Resource(kind, id_, details, gone=True))
            self._forgotten.add((kind, id_))

    async def ours(self, kind: str) -> list[dict[str, Any]]:
        """Return what exists of ours in EC2, by tag and as stored; forget what is stored and exists no more.

        What is stored and lost its tags gets them back.
        """
        found = await ours(self.aws, kind, self.place, self.known_ids(kind))
        ec2 = EC2[kind]
        there = {item[ec2.id] for item in found}
        for id_ in self.known_ids(kind):
            if id_ not in there:
                await self.forget(kind, id_)
        for item in found:
            if not is_ours(item, self.place):
                await self._tag_again(kind, item)
        return found

    async def _tag_again(self, kind: str, item: dict[str, Any]) -> None:
        id_ = item[EC2[kind].id]
        tags = place_tags(self.place)
        if part := self.remembered(kind, id_).get("part"):
            tags[PART] = str(part)
        await self.ec2("CreateTags", Resources=[id_], Tags=as_tags(tags))
        item["Tags"] = as_tags(tags)

    def stored_first(self, kind: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Put what is stored first: if there are more than there should be, that is the one to keep."""
        ids, key = self.known_ids(kind), EC2[kind].id
        return sorted(found, key=lambda item: (item[key] not in ids, item[key]))

    async def make(self, kind: str, part: str = "", **parameters: Any) -> dict[str, Any]:
        """Make something in EC2 and describe it. If the answer is lost, find what came of it by its tags.

        Where it does not show up soon, the error is raised: the next run looks again before it makes another.
        """
        ec2 = EC2[kind]

        async def find() -> dict[str, Any] | None:
            found = [item for item in await ours(self.aws, kind, self.place) if part_of(item) == part]
            return found[0] if found else None

        tags = specification(self.place, kind, part)
        try:
            answer = await self.settled(ec2.create, TagSpecifications=tags, **parameters)
        except TryAgainError:
            found = await self.patience.until(find, _LOST)
            if found is None:
                raise
            return found
        made: dict[str, Any] = answer[ec2.made] if ec2.made else answer
        return made

    async def tagged(
        self, service: str, operation: str, tags: Mapping[str, Any], /, **parameters: Any
    ) -> tuple[dict[str, Any], str | None]:
        """Create something with tags, or without them where the key may not set tags; return a note in that case.

        Only EC2 lets every key that may create also tag, with the policy that people have from the reference product.
        """
        try:
            return await self.aws.call(service, operation, **tags, **parameters), None
        except FixItError as error:
            action = denied(error)
            if action is None:
                raise
        answer = await self.aws.call(service, operation, **parameters)
        return answer, self.untagged(action)

    @staticmethod
    def untagged(action: str) -> str:
        """Return the note on something that could not be tagged."""
        return f"Not tagged, since the key may not use {action}; Ropewalk knows it by its name."
