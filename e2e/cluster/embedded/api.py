"""A few requests to the API server, with nothing but the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

Body = dict[str, Any]


class ApiError(Exception):
    """The API server refused; ``code`` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"HTTP {code}: {message}")
        self.code = code


class Api:
    """The API server that a kubeconfig (with certificates inside) points to."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        server = urlsplit(config["clusters"][0]["cluster"]["server"])
        self._address = (str(server.hostname), int(server.port or 443))
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self._tls = ssl.create_default_context(cadata=ca)
        with tempfile.NamedTemporaryFile() as pem:  # the ssl module loads keys from files only
            pem.write(base64.b64decode(user["client-certificate-data"]))
            pem.write(base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._tls.load_cert_chain(pem.name)

    def get(self, path: str) -> Body:
        """The object or list at ``path``."""
        return self._json("GET", path)

    def create(self, path: str, body: Body) -> None:
        """Create an object in the collection ``path``; one that is there already is left as it is."""
        try:
            self._json("POST", path, body)
        except ApiError as error:
            if error.code != 409:
                raise

    def patch(self, path: str, body: Body) -> None:
        """JSON merge patch."""
        self._json("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path: str) -> None:
        """Delete an object that may be gone already."""
        try:
            self._json("DELETE", path)
        except ApiError as error:
            if error.code != 404:
                raise

    def watch(self, path: str, resource_version: str, seconds: int = 300) -> Iterator[Body]:
        """Events of a collection after ``resource_version``, until the server ends the watch."""
        connection = self._connect(timeout=seconds + 30)
        try:
            query = f"watch=true&timeoutSeconds={seconds}&resourceVersion={resource_version}"
            connection.request("GET", f"{path}?{query}")
            response = connection.getresponse()
            if response.status != 200:
                raise ApiError(response.status, response.read().decode(errors="replace"))
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def wait_ready(self, timeout: float) -> None:
        """Wait for ``/readyz``. Raises TimeoutError with its last answer."""
        deadline = time.monotonic() + timeout
        answer = "no answer"
        while time.monotonic() < deadline:
            try:
                self._request("GET", "/readyz", None, "")
            except (OSError, http.client.HTTPException, ApiError) as error:
                answer = str(error)
                time.sleep(0.1)
            else:
                return
        raise TimeoutError(f"the API server at {self._address} isn't ready after {timeout:g} s: {answer}")

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(*self._address, context=self._tls, timeout=timeout)

    def _json(self, method: str, path: str, body: Body | None = None, kind: str = "application/json") -> Body:
        answer: Body = json.loads(self._request(method, path, body, kind))
        return answer

    def _request(self, method: str, path: str, body: Body | None, kind: str) -> bytes:
        connection = self._connect(timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": kind})
            response = connection.getresponse()
            text = response.read()
            if response.status >= 300:
                raise ApiError(response.status, text.decode(errors="replace")[:1000])
            return text
        finally:
            connection.close()
