"""The client of a reward server, against a server in this process that can be down, slow, busy or wrong."""

from __future__ import annotations

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ft.errors import TrainingError
from ft_plugins.stages._rewards.api import BATCH, RewardServer, shown_url


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((dict(self.headers), json.loads(body)))
        status, answer, headers = self.server.answer(json.loads(body), len(self.server.seen))
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server whose ``answer(body, request number)`` a test replaces; by default the length of each text."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.seen = []
    served.handle_error = lambda *_: None  # a client that has gone is meant
    served.answer = lambda body, _: (200, {"scores": [float(len(text)) for text in body["messages"]]}, {})
    served.url = f"http://127.0.0.1:{served.server_port}/score"
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


def always(answer, status=200, **headers):
    return lambda body, number: (status, answer, headers)


def client(server, **more) -> RewardServer:
    return RewardServer(server.url, **{"timeout": 5.0, "pause": 0.001, **more})


def test_the_contract_is_that_of_llama_factory(server):
    assert client(server)(["four", "seventh"]) == [4.0, 7.0]
    headers, body = server.seen[0]
    assert body == {"model": "model", "messages": ["four", "seventh"]}
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in headers


def test_many_texts_go_in_several_requests_and_come_back_in_order(server):
    texts = ["x" * number for number in range(BATCH + 3)]
    assert client(server)(texts) == [float(number) for number in range(BATCH + 3)]
    assert [len(body["messages"]) for _, body in server.seen] == [BATCH, 3]
    assert client(server)([]) == []


def test_a_busy_server_is_asked_again(server):
    healthy = server.answer
    server.answer = lambda body, number: healthy(body, number) if number > 2 else (503, b"warming up", {})
    assert client(server)(["four"]) == [4.0]
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (always({"scores": [1.0]}), "1 scores for 2 texts"),
        (always({"scores": 3}), "no list of scores"),
        (always({"scores": [1.0, None]}), "not a finite number: None"),
        (always({"scores": [1.0, True]}), "not a finite number: True"),
        (always(b'{"scores": [1.0, NaN]}'), "not a finite number: nan"),
        (always(b'{"scores": [1.0, "2"]}'), "not a finite number: 2"),
        (always(b'{"scores": [1.0, 1' + b"0" * 400 + b"]}"), "not a finite number: 1000"),
        (always(b'{"scores": ' + b"[" * 100_000), "no scores in its answer"),
        (always({"rewards": [1.0, 2.0]}), 'no scores in its answer: {"rewards"'),
        (always([1.0, 2.0]), "no scores in its answer"),
        (always(b"<html>it works</html>"), "no scores in its answer: <html>it works</html>"),
        (always(b""), "no scores in its answer: nothing"),
        (always(b"no such model", status=404), "status 404: no such model"),
        (always(b"elsewhere", status=307, Location="http://127.0.0.1:9/"), "status 307"),
        (always(b"elsewhere", status=302, Location="http://127.0.0.1:9/"), "status 302"),
    ],
)
def test_nonsense_is_an_error_that_names_the_server_and_shows_the_answer(server, answer, said):
    server.answer = answer
    with pytest.raises(TrainingError) as caught:
        client(server)(["one", "two"])
    assert said in caught.value.why
    assert caught.value.where == server.url
    assert len(server.seen) == 1, "nonsense is not asked for again"


def test_a_server_that_stays_busy_is_given_up(server):
    server.answer = always(b"try later", status=429)
    with pytest.raises(TrainingError, match=r"status 429: try later \(3 attempts\)"):
        client(server, attempts=3)(["one"])
    assert len(server.seen) == 3


def test_a_refusal_whose_reason_does_not_come_is_still_a_refusal(server):
    def stall(handler):
        BaseHTTPRequestHandler.end_headers(handler)
        time.sleep(0.3)

    server.RequestHandlerClass = type("Stalling", (Handler,), {"end_headers": stall})
    server.answer = always(b"no such model", status=404)
    with pytest.raises(TrainingError, match="status 404: timed out"):
        client(server, timeout=0.05)(["one"])


def test_a_server_that_is_down(server):
    url = server.url.replace(str(server.server_port), "9")
    with pytest.raises(TrainingError, match="refused") as caught:
        RewardServer(url, attempts=2, pause=0.001)(["one"])
    assert "(2 attempts)" in caught.value.why


def test_something_that_is_no_web_server():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def chatter():
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        thread = threading.Thread(target=chatter)
        thread.start()
        with pytest.raises(TrainingError, match="SSH"):
            RewardServer(url, attempts=1)(["one"])
        thread.join()


def test_a_server_that_is_slow(server):
    def slow(body, number):
        time.sleep(0.3)
        return 200, {"scores": [1.0]}, {}

    server.answer = slow
    with pytest.raises(TrainingError, match="timed out"):
        client(server, timeout=0.05, attempts=2)(["one"])


def test_a_server_that_trickles(server):
    def trickle(handler):
        BaseHTTPRequestHandler.end_headers(handler)
        for _ in range(50):
            handler.wfile.write(b" ")
            time.sleep(0.02)

    server.RequestHandlerClass = type("Trickling", (Handler,), {"end_headers": trickle})
    begin = time.monotonic()
    with pytest.raises(TrainingError, match="timed out in the middle of its answer"):
        client(server, timeout=0.2, attempts=1)(["one"])
    assert time.monotonic() - begin < 0.8


def test_the_token_is_sent_and_never_shown(server):
    server.answer = lambda body, number: (400, server.seen[-1][0]["Authorization"].encode(), {})
    with pytest.raises(TrainingError) as caught:
        client(server, token="geheim-123")(["one"])
    assert server.seen[0][0]["Authorization"] == "Bearer geheim-123"
    assert "geheim" not in str(caught.value)
    assert "Bearer ***" in str(caught.value)


def test_secrets_in_a_url_are_not_shown():
    assert shown_url("https://me:pw@host:8000/score?key=s3cret") == "https://host:8000/score"
