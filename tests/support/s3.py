"""An S3 server on loopback: moto's own, in a process of its own, at two ports of which one is slow.

Starting and emptying it, the environment in which clients find it, its log of requests, refusals on demand.
"""

import atexit
import functools
import gc
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

KEY, SECRET = "AKIALABELSIEVE0TEST", "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"
DELAY_S = 0.1
BUCKET = "predictions"
_FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class S3Server:
    """The server as a test sees it."""

    def __init__(self, port, slow_port):
        self.url, self.slow_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{slow_port}"

    def set_environment(self, monkeypatch, *, slow=False):
        """Let clients find the server and the credentials where AWS's tools look."""
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            monkeypatch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": self.slow_url if slow else self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_MAX_ATTEMPTS": "2",
        }.items():
            monkeypatch.setenv(name, value)
        # A quarter of what a client costs is to parse the same descriptions of services.
        monkeypatch.setattr("botocore.loaders.JSONFileLoader._load_file", lambda _, *file: _load_once(*file))
        if _cached_clients():
            clear_clients()

    def requests(self):
        """Return what was asked for since the last call: method, path, range."""
        with urllib.request.urlopen(f"{self.url}/-/requests") as response:
            return [tuple(request) for request in json.load(response)]


@functools.cache
def _load_once(path, open_file):
    """Return what a file of botocore's holds."""
    if not Path(path).is_file():
        return None
    with open_file(path, "rb") as file:
        return json.loads(file.read(), object_pairs_hook=OrderedDict)


def _cached_clients():
    import s3fs

    from labelsieve.storage.s3 import S3

    return [kind for kind in (s3fs.S3FileSystem, S3) if kind._cache]


def clear_clients():
    """Forget file systems that were made in another environment."""
    for kind in _cached_clients():
        kind.clear_instance_cache()
    gc.collect()  # here, not in a thread with another event loop, where a client cannot be closed


@contextmanager
def running_server():
    """Empty the server, which all tests of a process share, one after the other: it takes two seconds to start."""
    server = _started()
    with urllib.request.urlopen(f"{server.url}/moto-api/reset", data=b""):
        server.requests()
    yield server


@functools.cache
def _started():
    """Start the server in a process of its own, wait for it, and end it with this one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [sys.executable, str(Path(__file__).resolve())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    def end():
        process.kill()
        process.wait()
        process.stdout.close()

    atexit.register(end)
    return S3Server(*json.loads(process.stdout.readline()))


def _noting(application, log, delay_s):
    """Return `application` behind the log, the delay and the refusals."""

    def answer(environ, start_response):
        path = environ["PATH_INFO"]
        if path == "/-/requests":
            said = json.dumps([log.pop(0) for _ in range(len(log))]).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(said)))])
            return [said]
        log.append((environ["REQUEST_METHOD"], path, environ.get("HTTP_RANGE")))
        time.sleep(delay_s)
        if "forbidden" in path + environ["QUERY_STRING"] or "unlisted" in environ["QUERY_STRING"]:
            said = b"" if environ["REQUEST_METHOD"] == "HEAD" else _FORBIDDEN
            start_response("403 Forbidden", [("Content-Type", "text/xml"), ("Content-Length", str(len(said)))])
            return [said]
        return application(environ, start_response)

    return answer


def main():
    """Serve at two free ports until killed, the second one slow; print both."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application, log = DomainDispatcherApplication(create_backend_app), []
    servers = [
        make_server("127.0.0.1", 0, _noting(application, log, delay), threaded=True, request_handler=MotoRequestHandler)
        for delay in (0, DELAY_S)
    ]
    print(json.dumps([server.server_port for server in servers]), flush=True)
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
