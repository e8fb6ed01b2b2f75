"""How a human's command reaches the Kubernetes API: by kubectl's kubeconfig, under a field manager of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import typer
import yaml
from kubernetes.aio.config import ConfigException
from kubernetes.aio.config.kube_config import list_kube_config_contexts

from sluice.api.base import API_VERSION, CLI_FIELD_MANAGER
from sluice.api.objects import InvalidSpecError, Resource, parse
from sluice.kube.client import Kube
from sluice.kube.errors import KubeError


@contextmanager
def _explained() -> Iterator[None]:
    """A kubeconfig that isn't there, or can't be used, ends the command with a sentence."""
    try:
        yield
    except (ConfigException, yaml.YAMLError, OSError) as error:
        typer.echo(f"no way to Kubernetes: {error} (does kubectl work with this KUBECONFIG?)", err=True)
        raise typer.Exit(1) from error


def current_namespace(context: str | None) -> str:
    """Namespace of the kubeconfig's context, as kubectl takes it.

    Raises:
        typer.Exit: there is no kubeconfig, or it can't be used.
    """
    with _explained():
        contexts, current = list_kube_config_contexts()
    chosen = next((c for c in contexts if c["name"] == context), current) if context else current
    return str(chosen["context"].get("namespace") or "default")


@asynccontextmanager
async def kubernetes(context: str | None) -> AsyncIterator[Kube]:
    """The API server of the kubeconfig; what goes wrong ends the command with a sentence.

    Raises:
        typer.Exit: there is no kubeconfig, or the API server refuses or doesn't answer.
    """
    with _explained():
        kube = await Kube.connect(context=context, field_manager=CLI_FIELD_MANAGER)
    try:
        yield kube
    except KubeError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    finally:
        await kube.close()


async def one(kube: Kube, kind: str, namespace: str, name: str) -> Resource[Any, Any]:
    """One object of this API.

    Raises:
        typer.Exit: there is none of this name, or it can't be read.
    """
    body = await kube.get(API_VERSION, kind, namespace, name)
    if body is None:
        typer.echo(f"{kind} {namespace}/{name} doesn't exist", err=True)
        raise typer.Exit(1)
    try:
        return parse(body)
    except InvalidSpecError as error:
        typer.echo(f"{kind} {namespace}/{name} can't be read by this version: {error}", err=True)
        raise typer.Exit(1) from error
