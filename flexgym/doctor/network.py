"""Check ports, other machines and judge servers."""

from __future__ import annotations

import email.utils
import socket
import time
from collections.abc import Sequence

from flexgym.core.errors import ConfigError
from flexgym.core.json_text import parse_json
from flexgym.core.secrets import Secret
from flexgym.core.text import one_line
from flexgym.doctor.clocks import check_skew
from flexgym.doctor.findings import Finding, ok, problem, warning
from flexgym.judge.backends.addresses import base_url
from flexgym.judge.backends.connection import Answer, ExchangeError, fetch

_PATIENCE_S = 5.0


def check_ports(ports: Sequence[int]) -> list[Finding]:
    """Check that this machine can listen on ports.

    Args:
        ports: their numbers, such as 6379 for the head of a Ray cluster and 8000 for a judge server.
    """
    return [_check_port(port) for port in ports]


def _check_port(port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            words = getattr(error, "strerror", None) or str(error)
            advice = f"see who has it with `ss -ltnp 'sport = :{port}'`, or choose another port"
            return problem("ports", f"port {port} of this machine cannot be used: {words}", advice)
    return ok("ports", f"port {port} of this machine is free")


def check_connection(target: str) -> Finding:
    """Connect to a port of another machine.

    Args:
        target: ``HOST:PORT``.

    Raises:
        ConfigError: it has another form.
    """
    host, colon, number = target.rpartition(":")
    if not (host and colon and number.isdecimal() and 0 < int(number) < 2**16):
        raise ConfigError(f"--connect: expected HOST:PORT such as head:6379, got {target!r}")
    began = time.perf_counter()
    try:
        socket.create_connection((host.strip("[]"), int(number)), timeout=_PATIENCE_S).close()
    except socket.gaierror:
        return problem(
            "ports", f"{target}: there is no machine of that name", "correct the name, or add it to /etc/hosts"
        )
    except TimeoutError:
        advice = f"a firewall drops the packets, or the machine is off: open port {number} there"
        return problem("ports", f"{target} does not answer within {_PATIENCE_S:g} s", advice)
    except OSError as error:
        words = error.strerror or str(error)
        return problem("ports", f"{target}: {words}", f"start the process that listens on port {number} there")
    return ok("ports", f"{target} answers within {1000 * (time.perf_counter() - began):.0f} ms")


def check_name() -> Finding:
    """Check that the name of this machine leads to an address that other machines can use."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        return warning("network", f"the name of this machine, {name}, has no address", f"add {name} to /etc/hosts")
    if address.startswith("127."):
        advice = "for several machines, correct /etc/hosts, or set GLOO_SOCKET_IFNAME and `ray start --node-ip-address`"
        return warning("network", f"the name of this machine, {name}, leads to {address}, itself alone", advice)
    return ok("network", f"the name of this machine, {name}, leads to {address}")


def check_judge(url: str, api_key: Secret | None) -> list[Finding]:
    """Ask a judge server for its models, and compare its clock with that of this machine.

    Args:
        url: as in the setting of a reward, such as ``http://localhost:8000/v1``.
        api_key: key to send along.

    Raises:
        ConfigError: it is no address of a server.
    """
    address = base_url(url)
    try:
        answer = fetch(f"{address}/models", seconds=_PATIENCE_S, api_key=api_key)
    except TimeoutError:
        advice = "see whether it is overloaded, or a firewall drops the packets"
        return [problem("judge", f"{address} does not answer within {_PATIENCE_S:g} s", advice)]
    except ExchangeError as error:
        advice = "start it with `flexgym judge serve`, or correct the address and the firewall"
        return [problem("judge", f"{address} cannot be reached: {error}", advice)]
    return [_read_models(str(address), answer), *_check_server_clock(str(address), answer)]


def _read_models(address: str, answer: Answer) -> Finding:
    if answer.status in (401, 403):
        advice = "set --api-key-env, and api_key_env of the reward, to the variable that holds the key"
        return problem("judge", f"{address} rejects the key (HTTP {answer.status})", advice)
    try:
        names = [str(model["id"]) for model in parse_json(answer.body)["data"]] if answer.status == 200 else []
    except (ValueError, KeyError, TypeError):
        names = []
    if not names:
        what = f"{address}/models lists no model (HTTP {answer.status})"
        return problem("judge", what, "see that it is an OpenAI-compatible server, and that the path ends in /v1")
    return ok("judge", one_line(f"{address} serves {', '.join(names)}"))


def _check_server_clock(address: str, answer: Answer) -> list[Finding]:
    parsed = email.utils.parsedate_tz(answer.headers.get("date"))
    if parsed is None:
        return []
    return check_skew(f"{address}: its clock", email.utils.mktime_tz(parsed) - time.time())
