"""A small stand-in for W&B's server on the loopback address: GraphQL over real HTTP, as the real client speaks it."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

API_KEY = "0123456789" * 4


class Stub:
    """What was asked, and the reports that were saved."""

    def __init__(self) -> None:
        self.operations: list[tuple[str, dict[str, Any]]] = []
        self.views: list[dict[str, Any]] = []
        self.projects = ["ebmbench"]
        self.keys: set[str] = set()
        self.unknown: list[str] = []
        self.url = ""

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of one GraphQL operation; fails for one that it does not know."""
        self.operations.append((query, variables))
        if "upsertView" in query:
            view = {
                "id": base64.b64encode(f"View:{len(self.views) + 1}".encode()).decode(),
                "type": variables["type"],
                "name": variables["name"],
                "displayName": variables["displayName"],
                "description": variables["description"],
                "project": {"id": "p1", "name": variables["projectName"], "entityName": variables["entityName"]},
                "spec": variables["spec"],
                "updatedAt": "2026-01-02T03:04:05",
            }
            self.views.append(view)
            return {"upsertView": {"view": view, "inserted": True}}
        if "internalId" in query and "project(" in query:
            known = variables.get("projectName", variables.get("name")) in self.projects
            return {"project": {"id": "p1", "internalId": "UHJvamVjdDox"} if known else None}
        if "models(" in query or "projects(" in query:
            nodes = [self._project(name, variables) for name in self.projects]
            info = {"endCursor": None, "hasNextPage": False}
            return {"models": {"edges": [{"node": node, "cursor": "c"} for node in nodes], "pageInfo": info}}
        if "upsertModel" in query:
            self.projects.append(variables["name"])
            return {
                "upsertModel": {"project": self._project(variables["name"], variables), "model": None, "inserted": True}
            }
        if "viewer" in query:
            user = {
                "id": "VXNlcjox",
                "username": "tester",
                "entity": "team",
                "name": "Tester",
                "email": "t@example.org",
            }
            return {
                "viewer": user
                | {"admin": False, "flags": "{}", "deletedAt": None, "apiKeys": None, "teams": {"edges": []}}
            }
        self.unknown.append(query)
        raise KeyError(query)

    def _project(self, name: str, variables: dict[str, Any]) -> dict[str, Any]:
        entity = variables.get("entity", "team")
        node = {"__typename": "Project", "id": "p1", "internalId": "UHJvamVjdDox", "name": name, "entityName": entity}
        return node | {"createdAt": "2026-01-02T03:04:05", "isBenchmark": False, "user": None}


@contextmanager
def stub() -> Iterator[Stub]:
    """A server on a free port of 127.0.0.1."""
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            _, _, credentials = self.headers.get("Authorization", "").partition(" ")
            key = base64.b64decode(credentials).decode().partition(":")[2] if credentials else ""
            state.keys.add(key)
            if key != API_KEY:
                return self._reply(401, {"errors": [{"message": "user is not logged in"}]})
            request = json.loads(body)
            try:
                data = state.answer(request["query"], request.get("variables") or {})
            except KeyError as error:
                return self._reply(400, {"errors": [{"message": f"not known here: {error}"}]})
            return self._reply(200, {"data": data})

        def _reply(self, code: int, data: dict[str, Any]) -> None:
            body = json.dumps(data).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
