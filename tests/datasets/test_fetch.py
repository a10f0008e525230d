"""Downloads: verified, whole or not at all, and an error that says what every address answered."""

import errno
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from helpers import ROOT, every

from metabridge.archives import downloaders
from metabridge.archives.fetch import Archive, fetch, verify

CONTENT = b"PK\x03\x04" + bytes(range(256)) * 400


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "origin" / "data.zip"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "root" / "downloads"


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_download_is_kept_and_not_repeated(server, original, downloads, archive_of):
    archive = archive_of(original, [server.serve("data.zip", CONTENT)])
    for _ in range(2):
        path = fetch(archive, downloads, progress=False)
        assert path == downloads / "data.zip"
        assert path.read_bytes() == CONTENT
    assert server.requests == ["/data.zip"]
    assert files_in(downloads) == ["data.zip"]


def test_progress_is_shown_on_standard_error(server, original, downloads, archive_of, capsys):
    fetch(archive_of(original, [server.serve("data.zip", CONTENT)]), downloads, progress=True)
    shown = capsys.readouterr()
    assert "data.zip: 100%" in shown.err
    assert shown.out == ""


def test_addresses_are_tried_in_order(server, original, downloads, archive_of):
    urls = [
        server.serve("gone", status=404),
        server.serve("busy", b"<html>quota</html>"),
        server.serve("cut", CONTENT[:5000], announced=len(CONTENT)),
        server.serve("good", CONTENT),
        server.serve("unused", CONTENT),
    ]
    assert fetch(archive_of(original, urls), downloads, progress=False).read_bytes() == CONTENT
    assert server.requests == ["/gone", "/busy", "/cut", "/good"]
    assert files_in(downloads) == ["data.zip"]


def test_when_nothing_answers_the_error_says_everything(server, original, downloads, archive_of):
    urls = [
        f"{server.address}/gone",
        server.serve("lies", CONTENT[:9], announced=500),
        server.serve("moved", status=302),
        "http://127.0.0.1:9/refused",
        "gopher://127.0.0.1/old",
    ]
    archive = archive_of(original, urls)
    with pytest.raises(ConnectionError, match=r"could not download data\.zip") as caught:
        fetch(archive, downloads, progress=False)
    message = str(caught.value)
    expected = [
        f"data.zip ({len(CONTENT):,} bytes, sha256 {archive.sha256})",
        "/gone: 404 Client Error",
        r"/lies: it announces 500 bytes, expected 102,404",
        "/moved: it answers with status 302",
        "/refused: .*refused",
        "/old: addresses must begin with http://, https:// or gdrive:",
        "Nothing was kept",
        f"by hand from {urls[0]} or {urls[1]}",
        f"check that its sha256 is {archive.sha256}",
        f"put it at {downloads / 'data.zip'}",
    ]
    for words in expected:
        assert words in message or re.search(words, message), f"{words!r} is not in {message}"
    assert files_in(downloads) == []


def test_an_archive_without_an_address_says_so(original, downloads, archive_of):
    with pytest.raises(ConnectionError, match=r"no address is known[^$]*Get data\.zip by hand, check"):
        fetch(archive_of(original), downloads, progress=False)


@pytest.mark.parametrize(
    ("body", "announced", "words"),
    [
        (CONTENT[:-1] + b"x", None, r"its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"),
        (b"", -1, "it holds 0 bytes, expected 102,404"),
        (CONTENT[:-1] + b"xy", -1, r"its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"),
    ],
)
def test_a_wrong_file_is_not_kept(server, original, downloads, archive_of, body, announced, words):
    url = server.serve("data.zip", body, announced=announced)
    kind = ConnectionError if words.startswith("it holds") else ValueError
    words = "the connection ended after 0 of 102,404 bytes" if words.startswith("it holds") else words
    with pytest.raises(kind, match=rf"{url}: {words}[^\n]*\nNothing was kept"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert files_in(downloads) == []
    assert server.requests == ["/data.zip"]


@pytest.mark.parametrize("body", [CONTENT, CONTENT + b"more" * 100_000])
def test_an_answer_without_a_length_stops_at_the_expected_size(server, original, downloads, archive_of, body):
    """Though the server goes on, or says no more and keeps the connection open."""
    url = server.serve("data.zip", body, announced=-1, stop=len(body), gate=threading.Event())
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("announced", "words"),
    [(None, "it announces 102,404 bytes, expected at most 102,000"), (-1, "it sends more than 102,000 bytes")],
)
def test_an_archive_of_roughly_known_size_is_given_up_at_twice_of_it(
    server, downloads, archive_of, original, announced, words
):
    url = server.serve("data.zip", CONTENT, announced=announced)
    sha256 = archive_of(original).sha256
    with pytest.raises(ValueError, match=f"{url}: {words}"):
        fetch(Archive("data.zip", (url,), sha256, about=51_000), downloads, progress=False)
    assert files_in(downloads) == []
    assert fetch(Archive("data.zip", (url,), sha256, about=52_000), downloads, progress=False).exists()


class Encrypted(requests.adapters.BaseAdapter):
    """Stands for all servers that speak https: answers with a redirection."""

    def __init__(self, location):
        super().__init__()
        self.location = location

    def send(self, request, **_):
        response = requests.Response()
        response.status_code, response.url, response.request = 302, request.url, request
        response.headers["Location"] = self.location
        response.raw = io.BytesIO()
        return response

    def close(self):
        pass


@pytest.mark.parametrize("location", ["{}/data.zip", "ftp://127.0.0.1/data.zip", "//127.0.0.1/data.zip"])
def test_https_never_leads_to_what_is_not_encrypted(server, original, downloads, archive_of, monkeypatch, location):
    server.serve("data.zip", CONTENT)
    adapter, get_adapter = Encrypted(location.format(server.address)), requests.Session.get_adapter
    monkeypatch.setattr(
        requests.Session,
        "get_adapter",
        lambda self, url: adapter if url.startswith("https:") else get_adapter(self, url),
    )
    words = "Exceeded 30 redirects" if location.startswith("//") else r"it leads from https to .*, which is not encr"
    with pytest.raises(ConnectionError, match=rf"https://good/data\.zip: {words}"):
        fetch(archive_of(original, ["https://good/data.zip"]), downloads, progress=False)
    assert server.requests == []


def test_a_redirection_of_what_was_not_encrypted_is_followed(server, original, downloads, archive_of):
    server.serve("data.zip", CONTENT)
    url = server.serve("moved", status=302, headers={"Location": f"{server.address}/data.zip"})
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT


def test_a_form_that_leads_to_what_is_not_encrypted_is_not_followed():
    downloaders._check_safe("http://a/", "http://b/")
    downloaders._check_safe("https://a/", "https://b/")
    with pytest.raises(downloaders.SourceError, match="it leads from https to http://b/, which is not encrypted"):
        downloaders._check_safe("https://a/", "http://b/")


def test_a_server_s_words_are_printed_without_control_characters(server, original, downloads, archive_of, monkeypatch):
    reason = "\x1b[31mGone\x07 \x9b0m"
    monkeypatch.setattr(server.handler, "responses", {404: (reason, ""), 403: (reason, "")})
    page = "<html><title>a \x1b]0;b\x07 \u202e</title></html>".encode()
    urls = [server.serve("gone", status=404), server.serve("page", page), server.serve("both", page, status=403)]
    urls += [server.serve("moved", status=302, headers={"Location": "gopher://a\x1b[31m"})]
    with pytest.raises(ValueError, match="could not download") as caught:
        fetch(archive_of(original, urls), downloads, progress=False)
    message = str(caught.value)
    assert "/gone: 404 Client Error:  [31mGone" in message
    assert every(each.isprintable() for each in message.replace("\n", "")), message


@pytest.mark.parametrize("place", ["data.zip", ".data.zip.part"])
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a folder", lambda path: path.mkdir()),
        ("a named pipe", lambda path: os.mkfifo(path)),
        ("a symbolic link", lambda path: path.symlink_to("nowhere")),
        ("a symbolic link", lambda path: path.symlink_to("/dev/full")),
    ],
)
def test_what_is_in_a_download_s_way_is_named_before_anything_is_fetched(
    server, original, downloads, archive_of, place, kind, make
):
    url = server.serve("data.zip", CONTENT)
    downloads.mkdir(parents=True)
    make(downloads / place)
    with pytest.raises(FileExistsError, match=rf"{downloads / place} is {kind}, where a file is to be put; remove it"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert server.requests == []


def test_a_link_to_the_archive_is_as_good_as_the_archive(server, original, downloads, archive_of):
    url = server.serve("data.zip", CONTENT)
    downloads.mkdir(parents=True)
    (downloads / "data.zip").symlink_to(original)
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    original.write_bytes(CONTENT + b"x")
    with pytest.raises(FileExistsError, match=r"data\.zip is a symbolic link, where a file is to be put"):
        fetch(Archive("data.zip", (url,), hashlib.sha256(CONTENT).hexdigest()), downloads, progress=False)
    assert server.requests == []


def test_what_is_no_file_is_not_verified(original, archive_of):
    archive = archive_of(original)
    original.unlink()
    os.mkfifo(original)
    with pytest.raises(ValueError, match=r"data\.zip must be a file, it is a named pipe"):
        verify(original, archive)


def test_an_archive_labelled_as_compressed_arrives_as_it_is(server, original, downloads, archive_of):
    url = server.serve("data.zip", CONTENT, headers={"Content-Encoding": "gzip", "Content-Type": "text/html"})
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT


def test_a_wrong_file_already_there_is_replaced_only_by_the_right_one(server, original, downloads, archive_of):
    downloads.mkdir(parents=True)
    (downloads / "data.zip").write_bytes(b"cut short")
    url = f"{server.address}/data.zip"
    with pytest.raises(ConnectionError, match=r"data\.zip, already there: it holds 9 bytes"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert (downloads / "data.zip").read_bytes() == b"cut short"
    server.serve("data.zip", CONTENT)
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT


def test_an_error_of_the_disk_is_not_blamed_on_the_server(server, original, archive_of):
    archive = archive_of(original, [server.serve("data.zip", CONTENT)])
    with pytest.raises(OSError, match=r"File exists|Not a directory") as caught:
        fetch(archive, original, progress=False)
    assert not isinstance(caught.value, ConnectionError)


def test_verify_accepts_the_official_file_and_leaves_it_alone(original, archive_of, snapshot):
    before = snapshot(original)
    verify(original, archive_of(original))
    verify(original, Archive("data.zip", (), archive_of(original).sha256))
    assert snapshot(original) == before


def test_verify_names_both_values(original, snapshot):
    before = snapshot(original)
    address = "https://example.org/data.zip"
    with pytest.raises(
        ValueError, match=r"origin/data\.zip is not the official .* 102,404 bytes, expected 5\. It was left"
    ):
        verify(original, Archive("data.zip", (address,), "0" * 64, 5))
    with pytest.raises(ValueError, match=rf"its sha256 is [0-9a-f]{{64}}, expected {'0' * 64}.* again from {address}"):
        verify(original, Archive("data.zip", (address,), "0" * 64, len(CONTENT)))
    assert snapshot(original) == before


def test_verify_needs_a_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        verify(tmp_path / "absent", Archive("data.zip", (), "0" * 64))


def test_checksums_are_computed_in_bounded_memory(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="its sha256 is"):
            verify(path, Archive("large", (), "0" * 64))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


# Checksums -----------------------------------------------------------------------------------------------


def test_an_archive_needs_a_checksum():
    for arguments in ({}, {"size": 5}, {"sha256": ""}):
        with pytest.raises(ValueError, match=r"`sha256` or `md5` must be given for data\.zip"):
            Archive("data.zip", (), **arguments)
    assert Archive("a", (), "ab", md5="cd").checksum == "sha256:ab"
    assert Archive("a", (), md5="cd").checksum == "md5:cd"


def test_md5_is_enough_where_nothing_better_is_known(server, downloads, original):
    url = server.serve("data.zip", CONTENT)
    right, wrong = hashlib.md5(CONTENT).hexdigest(), "0" * 32
    verify(original, Archive("data.zip", (), md5=right.upper()))
    with pytest.raises(ValueError, match=rf"its md5 is {right}, expected {wrong}"):
        fetch(Archive("data.zip", (url,), md5=wrong), downloads, progress=False)
    assert fetch(Archive("data.zip", (url,), md5=right), downloads, progress=False).read_bytes() == CONTENT


def test_every_checksum_that_is_given_must_be_right(original):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(ValueError, match="its md5 is"):
        verify(original, Archive("data.zip", (), sha256, md5="0" * 32))
    with pytest.raises(ValueError, match="its sha256 is"):
        verify(original, Archive("data.zip", (), "0" * 64, md5=hashlib.md5(CONTENT).hexdigest()))


# Resuming ------------------------------------------------------------------------------------------------

HALF = 50_000
PART = ".data.zip.part"


def cut(server, archive_of, original, downloads, **behaviour):
    """Try a server that ends the connection after half of the file; returns the message."""
    url = server.serve("cut", CONTENT, stop=HALF, **behaviour)
    with pytest.raises(ConnectionError, match=r"could not download data\.zip") as caught:
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert files_in(downloads) == [PART]
    server.requests.clear()
    server.ranges.clear()
    return str(caught.value)


def test_an_interrupted_download_goes_on_where_it_stopped(server, original, downloads, archive_of, capsys):
    message = cut(server, archive_of, original, downloads)
    assert "/cut: the connection ended after 50,000 of 102,404 bytes" in message
    assert f"50,000 bytes are kept in {downloads / PART}, the next try goes on from there" in message
    url = server.serve("data.zip", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads).read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-"]
    assert files_in(downloads) == ["data.zip"]
    assert "100%" in capsys.readouterr().err


def test_the_next_source_goes_on_where_one_broke(server, original, downloads, archive_of):
    urls = [server.serve("cut", CONTENT, stop=HALF), server.serve("good", CONTENT, ranges="honour")]
    assert fetch(archive_of(original, urls), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=50000-"]


@pytest.mark.parametrize(
    ("ranges", "asked"),
    [
        ("ignore", ["bytes=50000-"]),
        ("refuse", ["bytes=50000-", None]),
        ("elsewhere", ["bytes=50000-", None]),
        ("endless", ["bytes=50000-"]),
    ],
)
def test_a_server_that_cannot_go_on_is_asked_for_everything(server, original, downloads, archive_of, ranges, asked):
    cut(server, archive_of, original, downloads)
    url = server.serve("data.zip", CONTENT, ranges=ranges)
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == asked


def test_a_resumed_download_that_is_wrong_is_started_anew_once(server, original, downloads, archive_of):
    cut(server, archive_of, original, downloads)
    (downloads / PART).write_bytes(b"x" * HALF)  # as if the file had changed since
    url = server.serve("data.zip", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-", None]


def test_a_download_that_stays_wrong_is_not_started_a_third_time(server, original, downloads, archive_of):
    cut(server, archive_of, original, downloads)
    url = server.serve("data.zip", CONTENT[:-1] + b"x", ranges="honour")
    with pytest.raises(ValueError, match="its sha256 is"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert server.ranges == ["bytes=50000-", None]
    assert files_in(downloads) == []


def test_a_file_that_has_another_length_now_is_not_appended(server, original, downloads, archive_of):
    cut(server, archive_of, original, downloads)
    url = server.serve("data.zip", CONTENT * 2, ranges="honour")
    with pytest.raises(ConnectionError, match="it announces 204,808 bytes, expected 102,404"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert (downloads / PART).read_bytes() == CONTENT[:HALF]


@pytest.mark.parametrize("held", [len(CONTENT), len(CONTENT) + 1])
def test_a_partial_file_that_is_whole_already(server, original, downloads, archive_of, held):
    downloads.mkdir(parents=True)
    (downloads / PART).write_bytes((CONTENT + b"x")[:held])
    url = server.serve("data.zip", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == ([] if held == len(CONTENT) else [None])


def test_an_archive_of_unknown_size_is_resumed_too(server, original, downloads, archive_of):
    cut(server, archive_of, original, downloads)
    url = server.serve("data.zip", CONTENT, ranges="honour")
    archive = Archive("data.zip", (url,), archive_of(original).sha256)
    assert fetch(archive, downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == ["bytes=50000-"]


FETCH = """
import resource, sys
from metabridge.archives.fetch import Archive, fetch

url, sha256, folder, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
fetch(Archive("data.zip", (url,), sha256), folder, progress=False)
"""


def start_fetch(url, archive, folder, limit=0):
    """A process that fetches."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, url, archive.sha256, str(folder), str(limit)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_download_is_gone_on_from(server, original, downloads, archive_of):
    archive = archive_of(original)
    url = server.serve("data.zip", CONTENT, stop=90_000, gate=threading.Event())
    with start_fetch(url, archive, downloads) as process:
        wait_until(lambda: (downloads / PART).exists() and (downloads / PART).stat().st_size)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    held = (downloads / PART).stat().st_size
    assert 0 < held <= 90_000
    url = server.serve("data.zip", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={held}-"]
    assert files_in(downloads) == ["data.zip"]


# Waiting -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "words"), [(None, "no answer within"), (HALF, "no byte came for")])
def test_a_stalled_server_is_given_up(server, original, downloads, archive_of, monkeypatch, stop, words):
    monkeypatch.setattr(downloaders, "_TIMEOUT_SECONDS", 0.2)
    urls = [server.serve("stalled", CONTENT, stop=stop, gate=threading.Event()), server.serve("good", CONTENT)]
    if stop is None:
        monkeypatch.setattr(server.handler, "send_response", stalling(server))
    with pytest.raises(ConnectionError, match=rf"/stalled: {words} 0\.2 seconds"):
        fetch(archive_of(original, urls[:1]), downloads, progress=False)
    if stop:
        assert fetch(archive_of(original, urls), downloads, progress=False).read_bytes() == CONTENT


def stalling(server):
    def send_response(self, status):
        server.closing.wait(5)
        raise ConnectionError

    return send_response


def test_two_fetches_at_once_download_once(server, original, downloads, archive_of, capsys):
    gate = threading.Event()
    archive = archive_of(original, [server.serve("data.zip", CONTENT, stop=HALF, gate=gate)])
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(archive, downloads).read_bytes())) for _ in "ab"]
    threads[0].start()
    wait_until(lambda: server.requests)
    threads[1].start()
    shown = []
    wait_until(lambda: "another process is downloading" in "".join(shown) or shown.append(capsys.readouterr().err))
    gate.set()
    for thread in threads:
        thread.join(20)
    assert found == [CONTENT, CONTENT]
    assert server.requests == ["/data.zip"]
    assert files_in(downloads) == ["data.zip"]


@pytest.mark.slow
def test_two_processes_at_once_both_succeed(server, original, downloads, archive_of):
    archive = archive_of(original)
    url = server.serve("data.zip", CONTENT, ranges="honour")
    with start_fetch(url, archive, downloads) as first, start_fetch(url, archive, downloads) as second:
        errors = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), errors
    assert files_in(downloads) == ["data.zip"]
    assert server.requests == ["/data.zip"]


@pytest.mark.slow
def test_one_that_waited_goes_on_where_a_killed_one_stopped(server, original, downloads, archive_of):
    """The lock ends with its process, and what that one wrote is not written a second time."""
    gate = threading.Event()
    archive = archive_of(original)
    with start_fetch(server.serve("data.zip", CONTENT, stop=90_000, gate=gate), archive, downloads) as first:
        wait_until(lambda: (downloads / PART).exists() and (downloads / PART).stat().st_size)
        good = archive_of(original, [server.serve("good", CONTENT, ranges="honour")])
        found = []
        waiting = threading.Thread(target=lambda: found.append(fetch(good, downloads, progress=False).read_bytes()))
        waiting.start()
        waiting.join(0.2)
        assert (waiting.is_alive(), server.requests) == (True, ["/data.zip"])
        first.kill()
        first.communicate()
    waiting.join(20)
    assert found == [CONTENT]
    assert server.ranges[1] in {f"bytes={n}-" for n in range(1, 90_001)}
    assert files_in(downloads) == ["data.zip"]


@pytest.mark.slow
@pytest.mark.parametrize("ranges", ["honour", "ignore"])
def test_many_at_once_make_one_whole_file(server, original, downloads, archive_of, ranges):
    archive = archive_of(original)
    url = server.serve("data.zip", CONTENT, ranges=ranges)
    processes = [start_fetch(url, archive, downloads) for _ in range(4)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert (downloads / "data.zip").read_bytes() == CONTENT
    assert server.requests == ["/data.zip"]


def test_one_that_waited_downloads_itself_if_the_other_failed(server, original, downloads, archive_of):
    gate = threading.Event()
    failing = archive_of(original, [server.serve("bad", b"x" * len(CONTENT), stop=HALF, gate=gate)])
    good = archive_of(original, [server.serve("good", CONTENT)])
    found = []

    def fails():
        with pytest.raises(ValueError, match="its sha256"):
            fetch(failing, downloads, progress=False)

    threads = [
        threading.Thread(target=fails),
        threading.Thread(target=lambda: found.append(fetch(good, downloads, progress=False).read_bytes())),
    ]
    threads[0].start()
    wait_until(lambda: server.requests)
    threads[1].start()
    gate.set()
    for thread in threads:
        thread.join(20)
    assert found == [CONTENT]
    assert files_in(downloads) == ["data.zip"]


@pytest.mark.parametrize("failure", ["no locks", "no module"])
def test_without_locks_a_download_is_private(server, original, downloads, archive_of, monkeypatch, failure):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    if failure == "no locks":
        monkeypatch.setattr("fcntl.flock", no_locks)
    else:
        monkeypatch.setitem(sys.modules, "fcntl", None)
    url = server.serve("cut", CONTENT, stop=HALF)
    with pytest.raises(ConnectionError, match="Nothing was kept"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert files_in(downloads) == []
    url = server.serve("good", CONTENT)
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert files_in(downloads) == ["data.zip"]


# The disk ------------------------------------------------------------------------------------------------


def test_too_little_space_is_found_before_the_download(server, original, downloads, archive_of, monkeypatch):
    url = server.serve("data.zip", CONTENT)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100_000))
    words = rf"102,404 more bytes are needed in {downloads}, only 100,000 are free"
    with pytest.raises(OSError, match=words) as caught:
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert not isinstance(caught.value, ConnectionError)
    assert server.requests == []
    with pytest.raises(OSError, match=words):  # the server says how large it is
        fetch(Archive("data.zip", (url,), archive_of(original).sha256), downloads, progress=False)
    assert files_in(downloads) == []


def test_space_is_needed_only_for_what_is_missing(server, original, downloads, archive_of, monkeypatch):
    cut(server, archive_of, original, downloads)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=60_000))
    url = server.serve("data.zip", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize("late", ["fsync", "replace"])
def test_a_disk_that_says_late_that_it_is_full(server, original, downloads, archive_of, monkeypatch, late):
    """As network file systems and quotas do."""
    url = server.serve("data.zip", CONTENT)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync") if late == "fsync" else (Path, "replace")), full)
        with pytest.raises(OSError, match=r"is full: data\.zip needs more, free some") as caught:
            fetch(archive_of(original, [url]), downloads, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.requests == ["/data.zip"]  # what came was kept
    assert files_in(downloads) == ["data.zip"]


def test_an_archive_put_there_by_hand_ends_an_interrupted_download(server, original, downloads, archive_of):
    archive = archive_of(original, [server.serve("data.zip", CONTENT[:5000], announced=len(CONTENT))])
    with pytest.raises(ConnectionError, match="the connection ended after 5,000 of"):
        fetch(archive, downloads, progress=False)
    assert files_in(downloads) == [".data.zip.part"]
    (downloads / "data.zip").write_bytes(CONTENT)
    assert fetch(archive, downloads, progress=False).read_bytes() == CONTENT
    assert files_in(downloads) == ["data.zip"]


@pytest.mark.slow
def test_a_full_disk_keeps_what_came(server, original, downloads, archive_of):
    archive = archive_of(original)
    url = server.serve("data.zip", CONTENT, ranges="honour")
    with start_fetch(url, archive, downloads, limit=HALF) as process:
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert f"the disk of {downloads} is full: data.zip needs more, free some" in error
    assert f"50,000 bytes are kept in {downloads / PART}, the next try goes on from there" in error
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=50000-"]


# Web pages and Google Drive ------------------------------------------------------------------------------

QUOTA = b"""<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<p>Sorry, you can&#39;t view or download this file at this time.</p><p>Too many users have viewed or downloaded this
file recently.</p></body></html>"""
SIGN_IN = b"""<!doctype html><html><head><title>Google Drive: Sign-in</title></head><body>
<form action="https://accounts.google.com/signin"><input type="password" name="p"></form></body></html>"""
SCAN = b"""<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<p>Google Drive can't scan this file for viruses.</p>%s</body></html>"""
FORM = b"""<form id="download-form" action="%s" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="F1"><input type="hidden" name="confirm" value="t&amp;t"></form>
<form id="other"><input name="stray" value="1"></form>"""
PAGES = [
    (QUOTA, "the quota page of Google Drive. Too many people fetched the file lately; it opens again"),
    (SIGN_IN, "it asks to sign in, the file is not public there"),
    (SCAN % b"", "the virus-scan confirmation page of Google Drive, with no form that could be followed"),
    (
        b"\xef\xbb\xbf \n<HTML><title> Ma&#39;am </title>",
        'a web page arrived instead of the archive, entitled "Ma\'am"',
    ),
    (b"<html>hello</html>", "a web page arrived instead of the archive\n"),
]


@pytest.fixture
def drive(server, monkeypatch):
    """Google Drive, on this machine: serves `F1` as told; returns that file's address."""
    monkeypatch.setattr(downloaders, "_DRIVE_DOWNLOAD", f"{server.address}/uc")

    def serve(body, **behaviour):
        server.serve("uc?export=download&id=F1", body, **behaviour)
        return "gdrive:F1"

    return serve


@pytest.mark.parametrize(("page", "words"), PAGES)
def test_a_web_page_is_said_to_be_one(server, drive, original, downloads, archive_of, page, words):
    for url in (server.serve("data.zip", page), drive(page), server.serve("late", page, announced=-1)):
        with pytest.raises(ValueError, match="a web page arrived instead of the archive") as caught:
            fetch(archive_of(original, [url]), downloads, progress=False)
        assert words in str(caught.value)
        assert files_in(downloads) == []


def test_a_page_that_comes_with_an_error_is_read_too(server, drive, original, downloads, archive_of):
    for url in (server.serve("data.zip", QUOTA, status=403), drive(QUOTA, status=403)):
        with pytest.raises(ConnectionError, match=r"403 Client Error: Forbidden \(a web page .*quota page of Google"):
            fetch(archive_of(original, [url]), downloads, progress=False)


def test_a_page_does_not_touch_what_was_downloaded_before(server, original, downloads, archive_of):
    cut(server, archive_of, original, downloads)
    for ranges in ("ignore", "honour"):
        url = server.serve("data.zip", QUOTA, ranges=ranges)
        with pytest.raises((ValueError, ConnectionError), match=r"a web page arrived|it announces 234 bytes"):
            fetch(archive_of(original, [url]), downloads, progress=False)
        assert (downloads / PART).read_bytes() == CONTENT[:HALF]


def test_an_archive_of_what_looks_like_tags_is_no_page(server, downloads):
    content = b"<table>1</table>"
    archive = Archive("table.xml", (server.serve("table.xml", content),), hashlib.sha256(content).hexdigest())
    assert fetch(archive, downloads, progress=False).read_bytes() == content


def test_drive_delivers_small_files_at_once(drive, server, original, downloads, archive_of):
    archive = archive_of(original, [drive(CONTENT)])
    assert fetch(archive, downloads, progress=False).read_bytes() == CONTENT
    assert set(server.requests) == {"/uc?export=download&id=F1"}


@pytest.mark.parametrize("action", ["{}/download", "/download", "/download?id=F1&uuid=7"])
def test_drives_confirmation_form_is_followed(drive, server, original, downloads, archive_of, action):
    action = action.format(server.address)
    url = drive(SCAN % (FORM % action.encode()))
    query = "id=F1&uuid=7&confirm=t%26t" if "?" in action else "id=F1&confirm=t%26t"
    server.serve(f"download?{query}", CONTENT, stop=HALF)
    with pytest.raises(ConnectionError, match="after 50,000 of 102,404 bytes"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    server.serve(f"download?{query}", CONTENT, ranges="honour")
    assert fetch(archive_of(original, [url]), downloads, progress=False).read_bytes() == CONTENT
    assert server.ranges == [None, None, None, "bytes=50000-"]


def test_a_quota_page_after_the_form_is_said_to_be_one(drive, server, original, downloads, archive_of):
    url = drive(SCAN % (FORM % b"/download"))
    server.serve("download?id=F1&confirm=t%26t", QUOTA)
    with pytest.raises(ValueError, match=r"gdrive:F1: .*quota page of Google Drive"):
        fetch(archive_of(original, [url]), downloads, progress=False)


def test_a_form_that_leads_nowhere_is_an_answer(drive, server, original, downloads, archive_of):
    url = drive(SCAN % (FORM % b"file:///etc/passwd"))
    with pytest.raises(ConnectionError, match=r"gdrive:F1: No connection adapters were found"):
        fetch(archive_of(original, [url]), downloads, progress=False)


def test_a_drive_file_is_named_by_an_address_to_open(drive, server, original, downloads, archive_of):
    archive = archive_of(original, ["gdrive:F1", "https://example.org/data.zip"])
    assert archive.addresses == ("https://drive.google.com/file/d/F1/view", "https://example.org/data.zip")
    with pytest.raises(ConnectionError, match=r"by hand from https://drive\.google\.com/file/d/F1/view, check"):
        fetch(archive_of(original, ["gdrive:F1"]), downloads, progress=False)


# Other protocols -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["doi:10.1/good/data.zip", "ftp://127.0.0.1/data.zip", "data.zip", ""])
def test_other_protocols_are_refused_and_the_next_address_is_tried(server, original, downloads, archive_of, url):
    with pytest.raises(
        ConnectionError, match=rf"{re.escape(url)}: addresses must begin with http://, https:// or gdrive:"
    ):
        fetch(archive_of(original, [url]), downloads, progress=False)
    good = server.serve("data.zip", original.read_bytes())
    assert fetch(archive_of(original, [url, good]), downloads, progress=False).read_bytes() == original.read_bytes()
