"""What the client asks of the catalog: options of collections, and aliases."""

from __future__ import annotations

import pytest

from tests.unit.client.fake_gateway import FakeGateway
from vector_db_client import (
    AsyncVectorDatabaseClient,
    CollectionStats,
    IndexOptions,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    VectorDatabaseClient,
)


def test_a_collection_is_made_with_what_is_given_and_no_more(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.create_collection("plain", 2)
    client.create_collection(
        "full", 2, "dot", index={"kind": "hnsw", "m": 32}, recall_target=0.9, fields=("lang",)
    )
    plain, full = gateway.sent("/v1/collections")
    assert plain.body == {"name": "plain", "dimension": 2, "metric": "cosine"}
    assert full.body == {
        "name": "full",
        "dimension": 2,
        "metric": "dot",
        "index": {"kind": "hnsw", "m": 32},
        "recall_target": 0.9,
        "fields": ["lang"],
    }
    found = client.get_collection("full")
    assert found.index == IndexOptions("hnsw", m=32)
    assert (found.recall_target, found.fields, found.aliases) == (0.9, ("lang",), ())
    assert client.get_collection("plain").index == IndexOptions()


def test_a_change_sends_what_changes(gateway: FakeGateway, client: VectorDatabaseClient) -> None:
    client.create_collection("a", 2, index=IndexOptions(m=8))
    changed = client.update_collection("a", index={"encoding": "sq8"})
    assert changed.index == IndexOptions(encoding="sq8", m=8)
    client.update_collection("a", recall_target=0.9, fields=[])
    sent = [r.body for r in gateway.sent("/v1/collections/a") if r.method == "PATCH"]
    assert sent == [{"index": {"encoding": "sq8"}}, {"recall_target": 0.9, "fields": []}]
    with pytest.raises(InvalidArgument, match="is one string"):
        client.update_collection("a", fields="lang")


def test_a_collection_is_spread_over_other_shards(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    assert client.create_collection("a", 2).spreading_shards is None
    changed = client.update_collection("a", shards=5)
    assert (changed.shards, changed.spreading_shards) == (1, 5)
    assert client.get_collection("a") == changed
    assert client.update_collection("a", shards=1).spreading_shards is None


def test_aliases_are_set_switched_listed_and_removed(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.create_collection("a", 2)
    client.create_collection("b", 2)
    client.set_alias("now", "a")
    assert client.token == gateway.clock, "later reads of this client know of the change"
    client.update_aliases({"now": "b", "before": "a"})
    assert client.aliases() == {"now": "b", "before": "a"}
    client.delete_alias("before")
    assert client.aliases() == {"now": "b"}
    with pytest.raises(NotFound):
        client.delete_alias("before")
    with pytest.raises(InvalidArgument):
        client.update_aliases({})


def test_a_change_is_sent_again_only_where_that_changes_nothing(
    gateway: FakeGateway, client: VectorDatabaseClient
) -> None:
    client.create_collection("a", 2)
    gateway.at = {"/v1/aliases": ["lost", None, "lost"], "collections/a": ["lost"]}
    client.set_alias("now", "a")
    client.update_aliases({"now": "a", "then": "a"})
    client.update_collection("a", recall_target=0.9)
    assert not any(gateway.at.values()), "all of them were cut once"
    gateway.at = {"/v1/aliases": ["lost", "lost"]}
    with pytest.raises(OutcomeUnknown):
        client.update_aliases({"now": None})
    with pytest.raises(OutcomeUnknown):
        client.delete_alias("then")
    assert client.aliases() == {}


def test_statistics_have_recall_builds_and_memory(client: VectorDatabaseClient) -> None:
    client.create_collection("a", 2)
    assert client.collection_stats("a") == CollectionStats(
        0, 0, 1, 10, 20, 3, {"exact": 0}, 0.9, None, 0, 5, 2, 30, 40
    )


async def test_the_async_client_has_the_same_calls(aclient: AsyncVectorDatabaseClient) -> None:
    await aclient.create_collection("a", 2, index={"lists": 5})
    await aclient.set_alias("now", "a")
    await aclient.update_aliases({"then": "a"})
    assert await aclient.aliases() == {"now": "a", "then": "a"}
    await aclient.delete_alias("now")
    assert (await aclient.update_collection("a", index={"m": 4})).index.lists == 5
    assert (await aclient.update_collection("a", shards=3)).spreading_shards == 3
    assert (await aclient.collection_stats("a")).rows_dead == 3
