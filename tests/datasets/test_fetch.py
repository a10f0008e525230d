"""Downloads: verified, whole or not at all, and an error that says what every address answered."""

import re
import tracemalloc

import pytest

from metabridge.datasets.fetch import Archive, fetch, verify

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
    assert "100%" in shown.err
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
        server.serve("gone"),
        server.serve("cut", CONTENT[:9], announced=500),
        "http://127.0.0.1:9/refused",
    ]
    del server.answers["/gone"]
    archive = archive_of(original, urls)
    with pytest.raises(ConnectionError) as caught:
        fetch(archive, downloads, progress=False)
    message = str(caught.value)
    expected = [
        f"data.zip ({len(CONTENT):,} bytes, sha256 {archive.sha256})",
        "/gone: 404 Client Error",
        "/cut: .*IncompleteRead",
        "/refused: .*refused",
        f"put it at {downloads / 'data.zip'}",
        "`--from FILE`",
    ]
    for words in expected:
        assert words in message or re.search(words, message), f"{words!r} is not in {message}"
    assert files_in(downloads) == []


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            b"  <!DOCTYPE html><html>log in</html>",
            r"it holds 36 bytes, expected 102,404 \(a web page arrived",
        ),
        (CONTENT[:-1] + b"x", r"its sha256 is [0-9a-f]{64}, expected [0-9a-f]{64}"),
        (b"", "it holds 0 bytes, expected 102,404"),
    ],
)
def test_a_wrong_file_is_not_kept(server, original, downloads, archive_of, body, words):
    url = server.serve("data.zip", body)
    with pytest.raises(ValueError, match=rf"{url}: {words}[^\n]*\nNothing of these downloads was kept"):
        fetch(archive_of(original, [url]), downloads, progress=False)
    assert files_in(downloads) == []


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
