"""Conversations: lists of items that responses read and add to, kept in the state database."""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.api.responses_objects import conversation_object
from headrace.api.responses_service import Item, Page
from headrace.core.clock import Clock
from headrace.gateway.room import DEFAULT_QUOTA_BYTES, Room
from headrace.memory import responses as memory
from headrace.memory.store import Store


class Conversations:
    """See `api.responses_service.ConversationsService`."""

    def __init__(self, store: Store, clock: Clock, *, room: Room | None = None) -> None:
        self._store = store
        self._clock = clock
        self._room = room or Room(store, clock, DEFAULT_QUOTA_BYTES)

    async def create_conversation(
        self,
        tenant: str,
        conversation_id: str,
        items: Sequence[Item],
        metadata: Mapping[str, str],
        labels: frozenset[str] = frozenset(),
    ) -> Mapping[str, Any]:
        """See `ConversationsService`."""
        now_s = self._clock.unix_s()
        await self._room.check(tenant)
        create = memory.create_conversation
        added = await self._store.call(create, tenant, conversation_id, metadata, items, now_s, labels)
        self._room.add(tenant, added)
        return conversation_object(conversation_id, int(now_s), metadata)

    async def conversation(self, tenant: str, conversation_id: str) -> Mapping[str, Any]:
        """See `ConversationsService`."""
        created_s, metadata = await self._store.call(memory.load_conversation, tenant, conversation_id)
        return conversation_object(conversation_id, int(created_s), metadata)

    async def update_conversation(
        self, tenant: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """See `ConversationsService`."""
        now_s = self._clock.unix_s()
        await self._store.call(memory.update_conversation, tenant, conversation_id, metadata, now_s)
        return await self.conversation(tenant, conversation_id)

    async def delete_conversation(self, tenant: str, conversation_id: str) -> None:
        """See `ConversationsService`."""
        await self._store.call(memory.delete_conversation, tenant, conversation_id)

    async def add_items(
        self, tenant: str, conversation_id: str, items: Sequence[Item], labels: frozenset[str] = frozenset()
    ) -> Sequence[Item]:
        """See `ConversationsService`."""
        await self._room.check(tenant)
        now_s = self._clock.unix_s()
        append = memory.append_items
        self._room.add(tenant, await self._store.call(append, tenant, conversation_id, items, now_s, labels))
        return items

    async def items(self, tenant: str, conversation_id: str, page: Page) -> tuple[Sequence[Item], bool]:
        """See `ConversationsService`."""
        part = memory.Slice(page.limit, page.is_ascending, page.after, page.before)
        return await self._store.call(memory.conversation_page, tenant, conversation_id, part)

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """See `ConversationsService`."""
        return await self._store.call(memory.conversation_item, tenant, conversation_id, item_id)

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> Mapping[str, Any]:
        """See `ConversationsService`."""
        await self._store.call(memory.delete_item, tenant, conversation_id, item_id, self._clock.unix_s())
        return await self.conversation(tenant, conversation_id)
