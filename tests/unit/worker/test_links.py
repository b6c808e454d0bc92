"""A worker's connections are dropped, whatever is under way on them."""

import asyncio

import pytest
import redis

from producer.broker.embedded import EmbeddedBroker
from worker.links import Links


async def ids_of_clients(client: redis.Redis, count: int) -> set[str]:
    """Ids of the other clients, once there are so many."""
    async with asyncio.timeout(60):
        while True:
            ids = {each["id"] for each in client.client_list()} - {str(client.client_id())}
            if len(ids) == count:
                return ids
            await asyncio.sleep(0.01)


@pytest.mark.slow
async def test_a_drop_ends_what_is_under_way_and_the_next_calls_connect_anew():
    """Neither a read nor a subscription is refused by a server that was demoted: one that is spared would stay."""
    with EmbeddedBroker() as broker, redis.Redis(port=broker.port) as client:
        links = Links.to(broker.url)
        await links.presence.ping()
        pubsub = links.commands.pubsub()
        await pubsub.subscribe("channel")
        assert await pubsub.get_message(timeout=60)
        under_way = [
            asyncio.create_task(links.looks.blpop("nothing", 0)),
            asyncio.create_task(links.events.blpop("nothing", 0)),
            asyncio.create_task(pubsub.get_message(timeout=None)),
        ]
        before = await ids_of_clients(client, 4)

        await links.drop()
        async with asyncio.timeout(60):
            for each in under_way:
                with pytest.raises((redis.ConnectionError, redis.TimeoutError)):
                    await each
        for its in (links.looks, links.events, links.presence):
            await its.ping()
        await pubsub.subscribe("channel")

        assert not before & await ids_of_clients(client, 4)
        await pubsub.aclose()
        await links.close()
