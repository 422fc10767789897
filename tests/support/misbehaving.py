"""A store that misbehaves as it is told: S3 (the part that is used here) and plain HTTP, from memory, on loopback.

A process of its own. What goes wrong with a request is drawn from a seed, its method, path, range and the number of
times it was made, so that the same requests meet the same faults whatever the order of threads.
"""

import contextlib
import hashlib
import itertools
import json
import mmap
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

KEY, SECRET = "AKIALABELSIEVE0TEST", "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"
BUCKET = "predictions"
_PIECE = 1 << 20
_REFUSED = {"ExpiredToken": 400, "InvalidToken": 400, "InvalidAccessKeyId": 403, "AccessDenied": 403}


class MisbehavingStore:
    """The server as a test sees it."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def set_environment(self, monkeypatch, key=KEY):
        """Let clients find the server and the credentials where AWS's tools look."""
        import s3

        s3.S3Server.set_environment(self, monkeypatch)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)

    def put(self, key, content):
        """Store an object without faults."""
        self._control("put", {"key": key}, content)

    def put_file(self, key, path):
        """Serve the bytes of a local file."""
        self._control("put", {"key": key, "path": str(path)})

    def get(self, key):
        """Return the bytes of an object, without faults."""
        return self._control("get", {"key": key})

    def copy_all(self, prefix, to):
        """Copy all objects under a prefix to another one, except those that are there."""
        self._control("copy", {"prefix": prefix, "to": to})

    def behave(self, **settings):
        """Set how the server behaves from now on, and forget the requests so far; without settings, well.

        Settings
        --------
        seed : int
        faults : dict
            Shares of the requests by the name of a fault, of those in `_Handler.FAULTS`.
        only : str
            Regular expression for "METHOD path?query range": requests that faults are for; by default those for bytes
            of objects.
        times : int
            Times that the same request meets a fault; by default any number.
        latency_s, late_s, bytes_per_s : float
            Before each answer; before late ones; of the bodies of each answer.
        together : int
            Those of `only` are answered once so many requests have waited at the same time.
        retry_after : str
            Header of the answers 503.
        refused : dict
            Answers by access key, of those in `_REFUSED`; after `refused_after` requests for bytes of objects.
        at : int
            The number of the request for bytes of objects, counted from 1, before which `replace`, a dict, takes
            effect: the keys of objects, and the keys of those that take their places, or None.
        """
        self._control("behave", settings)

    def requests(self):
        """Return the requests since `behave`: method, path, range, and the name of the fault or ""."""
        return [tuple(request) for request in json.loads(self._control("requests", {}))]

    def most_in_flight(self):
        """Return how many requests waited for their answers at the same time, at most, since `behave`."""
        return json.loads(self._control("most", {}))

    def _control(self, what, settings, content=b""):
        request = urllib.request.Request(f"{self.url}/-/{what}?{quote(json.dumps(settings))}", data=content)
        with urllib.request.urlopen(request) as response:
            return response.read()


@contextmanager
def running_store():
    """Start the server in a process of its own, wait for it, and end it."""
    command = [sys.executable, str(Path(__file__).resolve())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield MisbehavingStore(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class _State:
    def __init__(self):
        self.lock = threading.Lock()
        self.objects, self.uploads, self.upload_numbers = {}, {}, itertools.count()
        self.behave({})

    def behave(self, settings):
        self.settings, self.log, self.n_reads, self.counts = settings, [], 0, Counter()
        self.in_flight = Counter()  # another one each time: earlier requests may still be there

    def put(self, key, content):
        content = memoryview(content)
        etag = hashlib.md5(content).hexdigest() if len(content) < 1 << 26 else f"{id(content):x}"
        self.objects[key] = (content, etag)
        return etag


STATE = _State()


class _Dropped(Exception):  # noqa: N818  # no error
    """The connection was closed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    FAULTS = ("slow_down", "reset", "reset_after", "cut", "broken", "stall", "trickle", "late", "silent")

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError, _Dropped):
            super().handle()

    def _answer(self):
        self.split = urlsplit(self.path)
        self.query = parse_qs(self.split.query, keep_blank_values=True)
        n = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        self.body = self.rfile.read(n) if n else b""
        if self.split.path.startswith("/-/"):
            return self._control(self.split.path[3:], json.loads(unquote(self.split.query)))
        self.key = unquote(self.split.path).removeprefix("/")
        self._misbehave()
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815  # the names of the base class

    def _control(self, what, settings):
        with STATE.lock:
            content = b""
            if what == "most":
                content = json.dumps(STATE.in_flight["most"]).encode()
            elif what == "behave":
                STATE.behave(settings)
            elif what == "requests":
                content = json.dumps(STATE.log).encode()
            elif what == "copy":
                for key in [key for key in STATE.objects if key.startswith(settings["prefix"])]:
                    if not key.startswith(settings["to"]):
                        STATE.objects[settings["to"] + key.removeprefix(settings["prefix"])] = STATE.objects[key]
            elif what == "get":
                content = STATE.objects[settings["key"]][0]
            elif "path" in settings:
                with Path(settings["path"]).open("rb") as file:
                    STATE.put(settings["key"], mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                STATE.put(settings["key"], self.body)
        self._send(200, content)

    def _misbehave(self):
        """Note the request, draw what goes wrong with it, and answer."""
        asked = self.headers.get("Range")
        reads = self.command == "GET" and "/" in self.key and "list-type" not in self.query
        line = f"{self.command} {self.path} {asked}"
        with STATE.lock:
            settings = STATE.settings
            STATE.n_reads += reads
            if reads and STATE.n_reads == settings.get("at"):
                for key, other in settings["replace"].items():
                    if other is None:
                        del STATE.objects[key]
                    else:
                        STATE.objects[key] = STATE.objects[other]
            key = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            refused = settings.get("refused", {}).get(key[1] if key else "")
            refused = refused if STATE.n_reads > settings.get("refused_after", 0) else None
            fault = None if refused else self._fault(settings, line, reads)
            STATE.log.append((self.command, self.split.path, asked, refused or fault or ""))
            in_flight = STATE.in_flight
            in_flight["now"] += 1
            in_flight["most"] = max(in_flight["most"], in_flight["now"])
        time.sleep(settings.get("latency_s", 0))
        if "together" in settings and re.search(settings["only"], line):
            end = time.monotonic() + 100
            while in_flight["most"] < settings["together"] and time.monotonic() < end:
                time.sleep(0.01)
        with STATE.lock:  # before the answer, after which the client may send the next request
            in_flight["now"] -= 1
        if refused:
            return self._send_error(_REFUSED[refused], refused)
        if fault == "late":
            time.sleep(settings.get("late_s", 2))
        elif fault == "silent":
            self.rfile.read(1)
            raise _Dropped
        elif fault == "reset":
            self._reset()
        elif fault == "slow_down":
            after = [("Retry-After", settings["retry_after"])] if "retry_after" in settings else []
            return self._send_error(503, "SlowDown", after)
        self.pace, self.fault = settings.get("bytes_per_s"), fault
        return self._serve()

    def _fault(self, settings, line, reads):
        if not (re.search(settings["only"], line) if "only" in settings else reads):
            return None
        STATE.counts[line] += 1
        if STATE.counts[line] > settings.get("times", 1 << 60):
            return None
        drawn = hashlib.sha256(f"{settings.get('seed', 0)} {line} {STATE.counts[line]}".encode()).digest()
        drawn = int.from_bytes(drawn[:8], "big") / 2**64
        for name, share in settings.get("faults", {}).items():
            assert name in self.FAULTS
            if drawn < share:
                return name
            drawn -= share
        return None

    def _reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise _Dropped

    # Objects --------------------------------------------------------------------------------------------------------

    def _serve(self):  # noqa: PLR0911  # one for each kind of request
        bucket, _, key = self.key.partition("/")
        if self.command in ("GET", "HEAD") and key:
            return self._send_object()
        if self.command == "GET":
            return self._list(bucket)
        if self.command == "POST" and "delete" in self.query:
            for name in re.findall(rb"<Key>(.*?)</Key>", self.body):
                with STATE.lock:
                    STATE.objects.pop(f"{bucket}/{name.decode()}", None)
            return self._send_xml("<DeleteResult/>")
        if self.command == "DELETE":
            with STATE.lock:
                STATE.objects.pop(self.key, None)
                STATE.uploads.pop(self.query.get("uploadId", [""])[0], None)
            return self._send(204, b"")
        if self.command == "POST" and "uploads" in self.query:
            with STATE.lock:
                upload = f"upload-{next(STATE.upload_numbers)}"
                STATE.uploads[upload] = {}
            return self._send_xml(
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        if self.command == "HEAD":
            return self._send(200, b"")
        return self._write(key)

    def _write(self, key):
        body, etag = self.body, '"none"'
        if "chunked" in self.headers.get("Content-Encoding", "") or self.headers.get("x-amz-decoded-content-length"):
            body = _unchunked(body)
        with STATE.lock:
            upload = self.query.get("uploadId", [None])[0]
            if upload is not None and upload not in STATE.uploads:
                return self._send_error(404, "NoSuchUpload")
            if upload is not None and self.command == "PUT":
                STATE.uploads[upload][int(self.query["partNumber"][0])] = body
                etag = hashlib.md5(body).hexdigest()
            elif upload is not None:
                parts = STATE.uploads.pop(upload)
                etag = STATE.put(self.key, b"".join(parts[number] for number in sorted(parts)))
            elif key:
                etag = STATE.put(self.key, body)
        if self.fault == "reset_after":
            self._reset()
        if upload is not None and self.command == "POST":
            return self._send_xml(f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>")
        return self._send(200, b"", [("ETag", f'"{etag}"')])

    def _send_object(self):
        with STATE.lock:
            found = STATE.objects.get(self.key)
        if found is None:
            return self._send_error(404, "NoSuchKey")
        content, etag = found
        size, status = len(content), 200
        headers = [
            ("ETag", f'"{etag}"'),
            ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("Accept-Ranges", "bytes"),
        ]
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if asked:
            if not asked[1]:
                start, stop = max(0, size - int(asked[2])), size
            else:
                start, stop = int(asked[1]), min(size, int(asked[2]) + 1 if asked[2] else size)
            if start >= size:
                return self._send_error(416, "InvalidRange")
            content, status = content[start:stop], 206
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        return self._send(status, content, headers)

    def _list(self, bucket):
        prefix, delimiter = (self.query.get(name, [""])[0] for name in ("prefix", "delimiter"))
        first = self.query.get("continuation-token", [""])[0]
        with STATE.lock:
            names = sorted(key.partition("/")[2] for key in STATE.objects if key.startswith(f"{bucket}/{prefix}"))
            found = {name: STATE.objects[f"{bucket}/{name}"] for name in names}
        entries = {}
        for name in names:
            head, cut, _ = name.removeprefix(prefix).partition(delimiter) if delimiter else (name, "", "")
            entries[prefix + head + cut if cut else name] = bool(cut)
        shown = [entry for entry in entries if entry >= first]
        most = min(int(self.query.get("max-keys", ["1000"])[0]), STATE.settings.get("page", 1000))
        parts = [
            f"<CommonPrefixes><Prefix>{escape(entry)}</Prefix></CommonPrefixes>"
            if entries[entry]
            else f"<Contents><Key>{escape(entry)}</Key><Size>{len(found[entry][0])}</Size>"
            f"<ETag>&quot;{found[entry][1]}&quot;</ETag><LastModified>2015-10-21T07:28:00Z</LastModified></Contents>"
            for entry in shown[:most]
        ]
        more = f"<NextContinuationToken>{escape(shown[most])}</NextContinuationToken>" if len(shown) > most else ""
        truncated = str(len(shown) > most).lower()
        count = min(most, len(shown))
        self._send_xml(
            f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated><KeyCount>{count}</KeyCount>{more}{''.join(parts)}"
            "</ListBucketResult>"
        )

    # Answers --------------------------------------------------------------------------------------------------------

    def _send_xml(self, text):
        self._send(200, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode(), [("Content-Type", "text/xml")])

    def _send_error(self, status, code, headers=()):
        text = f"<Error><Code>{code}</Code><Message>The store says {code}.</Message></Error>"
        self._send(status, text.encode(), [("Content-Type", "text/xml"), *headers])

    def _send(self, status, content, headers=()):
        fault = getattr(self, "fault", None)
        self.fault = None
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(content)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or status == 204:
            return
        if fault in ("cut", "broken", "stall", "trickle"):
            self._send_paced(content[: len(content) // 2])
            self._end_badly(fault, content[len(content) // 2 :])
        self._send_paced(content)

    def _end_badly(self, fault, rest):
        self.wfile.flush()
        if fault == "broken":
            time.sleep(0.05)  # a reset would overtake the first half
            self._reset()
        if fault == "stall":
            self.rfile.read(1)
        for i in range(len(rest) if fault == "trickle" else 0):
            self.wfile.write(rest[i : i + 1])
            self.wfile.flush()
            time.sleep(0.02)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
        raise _Dropped

    def _send_paced(self, content):
        pace, started = getattr(self, "pace", None), time.monotonic()
        for at in range(0, len(content), _PIECE):
            self.wfile.write(content[at : at + _PIECE])
            if pace:
                time.sleep(max(0, started + min(at + _PIECE, len(content)) / pace - time.monotonic()))


def _unchunked(body):
    """Return the content of a body in AWS's chunks, which carry checksums at the end."""
    content = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        n = int(size.partition(b";")[0], 16)
        if not n:
            break
        content, body = content + body[:n], body[n + 2 :]
    return content


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)


def main():
    """Serve at a free port until killed; print it."""
    server = _Server(("127.0.0.1", 0), _Handler)
    print(json.dumps(server.server_port), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    os.environ.pop("AWS_PROFILE", None)
    main()
