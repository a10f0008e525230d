"""Archives in Omniglot's official format, made here, and a web server that misbehaves on request."""

import dataclasses
import hashlib
import io
import os
import threading
import zipfile
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabridge.archives.fetch import Archive
from metabridge.datasets.omniglot import OMNIGLOT, read_omniglot

ALPHABETS = {"Balinese": 2, "Greek": 1, "Korean": 2, "Latin": 2}
SMALL1 = "images_background_small1"


def png(pixels):
    """A 1-bit PNG, as the official drawings are; true is paper."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def drawings():
    """Path below the top folder → PNG bytes, for 7 characters of 4 alphabets."""
    rng = np.random.default_rng(0)
    made = {}
    for alphabet, characters in ALPHABETS.items():
        for character in range(1, characters + 1):
            for drawer in range(1, 21):
                name = f"{alphabet}/character{character:02d}/{character:04d}_{drawer:02d}.png"
                made[name] = png(rng.random((105, 105)) > 0.1)
    return made


@dataclass
class MadeArchive:
    """One archive's content, and the places it was written to."""

    top: str
    files: dict[str, bytes]

    def write_zip(self, folder, name=None):
        """Write the archive, with an entry for every folder as the official one has; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (name or f"{self.top}.zip")
        folders = sorted({f"{parent.as_posix()}/" for file in self.files for parent in Path(file).parents[:-1]})
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in ["", *folders]:
                archive.writestr(f"{self.top}/{entry}", b"")
            for file, content in reversed(self.files.items()):  # the order in the archive must not matter
                archive.writestr(f"{self.top}/{file}", content)
        return path

    def write_folder(self, folder):
        """Write the unpacked folder; returns its path."""
        for file, content in self.files.items():
            path = folder / self.top / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.top


@pytest.fixture
def made(drawings):
    """A factory of `MadeArchive` over the made drawings."""
    return lambda top=SMALL1, files=None: MadeArchive(top, dict(drawings if files is None else files))


@pytest.fixture
def official(monkeypatch):
    """Declare files of 7 characters each to be a variant's official archives; `urls` are where they can be had."""

    def declare(variant, *paths, urls=()):
        read = partial(read_omniglot, title=f"omniglot {variant}", characters={path.stem: 7 for path in paths})
        changed = dataclasses.replace(
            OMNIGLOT.variants[variant],
            archives=tuple(archive_of(path, urls) for path in paths),
            read=read,
            splits={name: partial(if_built, split) for name, split in OMNIGLOT.variants[variant].splits.items()},
        )
        monkeypatch.setitem(OMNIGLOT.variants, variant, changed)

    return declare


def if_built(split, class_names):
    """Of the real characters, which the made archives do not have, a split says nothing beforehand."""
    return split(class_names) if class_names else {}


def archive_of(path, urls=()):
    content = path.read_bytes()
    return Archive(path.name, tuple(urls), hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture(name="archive_of")
def archive_of_fixture():
    """The `Archive` that describes an existing file."""
    return archive_of


@pytest.fixture
def snapshot():
    """Every file below a path with content and time of change, to show that nothing came, went or changed."""

    def take(path):
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files}

    return take


@pytest.fixture
def small1_zip():
    """The real `images_background_small1.zip`."""
    repository = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("METABRIDGE_TEST_DATA", repository.parent / "shared" / "data"))
    path = folder / "omniglot" / f"{SMALL1}.zip"
    if not path.is_file():
        reason = f"needs the real {path.name}, not found at {path}; set METABRIDGE_TEST_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@dataclass
class Answer:
    """What a path is answered with.

    Attributes:
        body: the file.
        status: HTTP status.
        announced: the length announced, if it is a lie; -1 announces none.
        stop: end the connection after so many bytes of the answer.
        gate: wait for it where `stop` is, and go on then.
        ranges: what a range is answered with: `"ignore"`, `"honour"`, `"elsewhere"`, `"endless"` or `"refuse"`.
        headers: further headers.
    """

    body: bytes = b""
    status: int = 200
    announced: int | None = None
    stop: int | None = None
    gate: threading.Event | None = None
    ranges: str = "ignore"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    """A web server on this machine: what it answers on each path, and what it was asked for."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    ranges: list[str | None] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    handler: type | None = None

    def serve(self, name, body=b"", status=200, announced=None, **behaviour):
        """Answer requests for `name`; returns its address."""
        self.answers[f"/{name}"] = Answer(body, status, announced, **behaviour)
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.state` says."""

    def do_GET(self):
        state = self.server.state
        state.requests.append(self.path)
        state.ranges.append(self.headers["Range"])
        answer = state.answers.get(self.path) or Answer(status=404)
        start, status = 0, answer.status
        headers = dict(answer.headers)
        if self.headers["Range"] and answer.ranges != "ignore" and status == 200:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            status = 416 if answer.ranges == "refuse" else 206
            claimed = start + 7 if answer.ranges == "elsewhere" else start
            total = "*" if answer.ranges == "endless" else len(answer.body)
            headers["Content-Range"] = f"bytes {claimed}-{len(answer.body) - 1}/{total}"
        body = answer.body[start:] if status != 416 else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        announced = len(body) if answer.announced is None else answer.announced
        if announced >= 0:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body[: answer.stop])
        if answer.gate is not None:
            while not (answer.gate.wait(0.01) or state.closing.is_set()):
                pass
            self.wfile.write(body[answer.stop :])

    def log_message(self, format, *args):
        pass


class QuietServer(ThreadingHTTPServer):
    """Says nothing when a client goes away."""

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def server(monkeypatch):
    """A running `Server`; what it was not told to serve answers 404."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with QuietServer(("127.0.0.1", 0), Handler) as http:
        http.state = state = Server(f"http://127.0.0.1:{http.server_address[1]}")
        state.handler = Handler
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        state.closing.set()
        http.shutdown()
        thread.join()
