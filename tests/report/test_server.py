"""The live report: on loopback, without files, up to date."""

from __future__ import annotations

import contextlib
import http.client
import threading

import pytest

from flexgym.core.errors import ConfigError
from flexgym.report.server import ReportServer, ReportSource, live_source
from tests.report.written import write_run


@contextlib.contextmanager
def serving(source):
    with ReportServer(source, 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server, path, *, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_the_page_follows_its_run(tmp_path):
    run = write_run(tmp_path / "r")
    with serving(live_source([run])) as server:
        status, page = ask(server, "/")
        assert status == 200
        assert b"data-live" in page
        assert b"connect-src &#39;self&#39;" in page
        before = ask(server, "/version")
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"iteration": 3, "reward/mean": 0.98765}\n')
        assert ask(server, "/version") != before
        assert b"0.9877" in ask(server, "/")[1]


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/metrics.jsonl", "/%2e%2e/config.yaml", "//etc/passwd", "/?x"])
def test_no_address_leads_to_a_file(tmp_path, path):
    with serving(ReportSource([tmp_path], lambda: b"page")) as server:
        assert ask(server, path)[0] == 404


def test_only_this_machine_by_its_own_names(tmp_path):
    with serving(ReportSource([tmp_path], lambda: b"page")) as server:
        assert server.server_address[0] == "127.0.0.1"
        assert ask(server, "/", host="evil.example")[0] == 403
        assert ask(server, "/", host=f"localhost:{server.server_port}") == (200, b"page")
        with pytest.raises(ConfigError, match="Choose another --port"):
            ReportServer(server.source, server.server_port)


def test_a_run_that_vanishes_is_a_sentence(tmp_path):
    run = write_run(tmp_path / "<b>r</b>")
    source = live_source([run])
    assert source.build() == source.page()
    (run / "metrics.jsonl").unlink()
    page = source.page()
    assert b"expected a run folder" in page
    assert b"<b>" not in page
