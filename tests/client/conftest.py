"""Fixtures of the client tests."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mmad.async_client import AsyncClient
from mmad.client import Client
from tests.client.scripted_service import BlockingAsyncClient, Handler, MakeClient


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest) -> Iterator[MakeClient]:
    """Return a function that makes a client for a handler."""
    clients: list[Client] = []

    def sync(handler: Handler, **options: Any) -> Client:
        clients.append(Client("http://mmad.test", transport=httpx.MockTransport(handler), **options))
        return clients[-1]

    def asynchronous(handler: Handler, **options: Any) -> BlockingAsyncClient:
        transport = httpx.MockTransport(handler)
        return BlockingAsyncClient(AsyncClient("http://mmad.test", transport=transport, **options))

    yield sync if request.param == "sync" else asynchronous
    for client in clients:
        client.close()


@pytest.fixture(autouse=True)
def delays_s(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record sleeps instead of sleeping, except in tests of the live service."""
    recorded_s: list[float] = []
    if "service" in request.fixturenames:
        return recorded_s

    async def sleep(delay_s: float) -> None:
        recorded_s.append(delay_s)

    monkeypatch.setattr("mmad.client.time.sleep", recorded_s.append)
    monkeypatch.setattr("mmad.async_client.anyio.sleep", sleep)
    return recorded_s
