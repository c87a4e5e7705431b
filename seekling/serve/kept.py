"""Responses that clients may come back to (``previous_response_id``), in memory and bounded."""

import json
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from seekling.serve.failures import ApiError

Json = dict[str, Any]


class Kept:
    """Responses and the items that led to them, by owner and id: the newest ``most``, of at most ``bytes`` in all."""

    def __init__(self, most: int = 512, bytes: int = 64 << 20):
        self._most, self._bytes, self._held = most, bytes, 0
        self._all, self._lock = OrderedDict[Hashable, tuple[Json, list[Json], int]](), threading.Lock()

    def put(self, owner: Hashable, response: Json, came: list[Json]) -> None:
        """Keep a response and all items before it."""
        size = len(json.dumps([response, came]))
        with self._lock:
            self._all[owner, response["id"]] = response, came, size
            self._held += size
            while len(self._all) > self._most or self._held > self._bytes:
                self._held -= self._all.popitem(last=False)[1][2]

    def get(self, owner: Hashable, name: str) -> tuple[Json, list[Json]]:
        """The response and the items before it. Raises ApiError(404)."""
        found = self._all.get((owner, name))
        if found is None:
            raise _unknown(name)
        return found[0], found[1]

    def drop(self, owner: Hashable, name: str) -> None:
        """Forget one. Raises ApiError(404)."""
        with self._lock:
            found = self._all.pop((owner, name), None)
            if found is None:
                raise _unknown(name)
            self._held -= found[2]


def _unknown(name: str) -> ApiError:
    message = f"there is no response {name!r}: it was not stored, is forgotten, or belongs to another key"
    return ApiError(404, message, param="previous_response_id", code="response_not_found")
