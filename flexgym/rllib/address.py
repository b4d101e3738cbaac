"""Ask a Ray cluster for a sign of life before connecting to it, which otherwise takes half a minute to fail."""

from __future__ import annotations

import os
from typing import Any

import grpc
import ray
from ray._private import services

from flexgym.core.errors import ConfigError

_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
_PATIENCE_S = 10.0
_TOKEN_HINT = (
    "copy the token that `ray get-auth-token` prints on its head into ~/.ray/auth_token or RAY_AUTH_TOKEN, and set"
    " RAY_AUTH_MODE=token"
)


def check_reachable() -> None:
    """Check that the cluster that `ray.init` would connect to is there and accepts this process.

    Nothing is checked where `ray.init` would start a Ray of its own, or for clusters with TLS or behind ``ray://``.

    Raises:
        ConfigError: nothing answers at the address, or the token is missing or wrong.
    """
    given = os.environ.get("RAY_ADDRESS", "")
    if "://" in given or os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return
    address = services.canonicalize_bootstrap_address(None)
    if address is None:
        return
    origin = "RAY_ADDRESS" if given else "found on this machine"
    code = _status(address, ())
    if code is grpc.StatusCode.UNAUTHENTICATED:
        _check_token(address, origin, by_itself=not given)
    elif code is not grpc.StatusCode.OK:
        raise ConfigError(
            f"no Ray answers at {address} ({origin}): start one there with `ray start --head`, correct RAY_ADDRESS, or"
            " set RAY_ADDRESS=local to train on this machine alone"
        )


def _check_token(address: str, origin: str, *, by_itself: bool) -> None:
    mode = os.environ.get("RAY_AUTH_MODE")
    loader: Any = ray._raylet.AuthenticationTokenLoader.instance()  # type: ignore[attr-defined]
    # Unless RAY_AUTH_MODE says so, Ray uses a token only for a cluster that it has found by itself.
    uses = mode.lower() == "token" if mode is not None else by_itself
    if not uses or not loader.has_token(ignore_auth_mode=True):
        raise ConfigError(f"Ray at {address} ({origin}) asks for a token: {_TOKEN_HINT}")
    header: Any = loader.get_token_for_http_header(ignore_auth_mode=True)
    metadata = tuple((name.lower(), value) for name, value in header.items())
    if _status(address, metadata) is grpc.StatusCode.UNAUTHENTICATED:
        raise ConfigError(f"Ray at {address} ({origin}) does not accept the token of this account: {_TOKEN_HINT}")


def _status(address: str, metadata: tuple[tuple[str, str], ...]) -> grpc.StatusCode:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(_ALIVE, request_serializer=bytes, response_deserializer=bytes)
        try:
            call(b"", timeout=_PATIENCE_S, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK
