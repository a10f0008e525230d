"""One file from one address, or the reason in plain words.

Downloads go on where an interrupted one stopped; Google Drive's confirmation form is followed.
"""

import html
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

if TYPE_CHECKING:
    import requests

__all__ = ["DRIVE", "HTTPDownloader", "SourceError", "WrongContentError", "page_words"]

DRIVE = "gdrive:"
"""Beginning of an address that is a Google Drive file id."""

_DRIVE_DOWNLOAD = "https://drive.google.com/uc"
_TIMEOUT_SECONDS = 30.0  # without an answer or a further byte, not for the whole download
_CHUNK_BYTES = 1 << 16
_PAGE_BYTES = 1 << 20  # how much of a web page is looked at
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+|\*)")

_PAGE = "a web page arrived instead of the archive"


class SourceError(Exception):
    """Why one source delivered nothing, or not all; what it did deliver may be kept.

    Args:
        words: the reason; the words in it may be the server's, so control characters become blanks.
    """

    def __init__(self, words: str) -> None:
        super().__init__("".join(each if each.isprintable() else " " for each in words))


class WrongContentError(SourceError):
    """A source delivered something other than the archive."""


@dataclass(frozen=True)
class HTTPDownloader:
    """Appends to `output` what it lacks, or begins anew where the server cannot go on.

    The file may have changed at the server since it was begun. Its checksum finds that, and the caller then tries again
    from nothing once: a checksum decides more than the server's word, and holds from one server to the next.

    Args:
        size: bytes the file must have, or `None` if unknown. An answer that announces no length is read up to there.
        progress: show a bar on standard error.
        most: where `size` is unknown, bytes beyond which an answer is refused, or `None` for no limit.

    Raises:
        OSError: if the disk has not enough space or does not take what comes.
        SourceError: for whatever the server does instead of delivering the file.
    """

    size: int | None = None
    progress: bool = True
    most: int | None = None

    def __call__(self, url: str, output: Path) -> None:
        """Download from an address that begins with `http://`, `https://` or `gdrive:` (then the id of a file)."""
        import requests  # 0.1 s to import, and needed only here

        if not url.startswith((DRIVE, "http://", "https://")):
            raise SourceError("addresses must begin with http://, https:// or gdrive:")
        output.touch()
        if self.size is not None:
            check_space(output, self.size - output.stat().st_size)
        with requests.Session() as session:
            session.hooks["response"].append(_refuse_unsafe_redirect)
            address = _drive_address(session, url.removeprefix(DRIVE)) if url.startswith(DRIVE) else url
            response, start = _answer(session, address, output.stat().st_size)
            with closing(response):
                self._receive(response, output, start)

    def _receive(self, response: "requests.Response", output: Path, start: int) -> None:
        """Write what comes at `start`, which is where `output` ends, or 0."""
        total = _announced(response, start)
        chunks = _chunks(response, self.size - start if total is None and self.size is not None else None)
        first = next(chunks, b"")
        if _is_page(response, first):
            raise WrongContentError(_rest_of_page(response, first, chunks))
        if self.size is not None and total not in (None, self.size):
            raise SourceError(f"it announces {total:,} bytes, expected {self.size:,}")
        if self.most is not None and total is not None and total > self.most:
            raise WrongContentError(f"it announces {total:,} bytes, expected at most {self.most:,}")
        total = self.size if total is None else total
        with output.open("r+b") as file:
            file.truncate(start)
            file.seek(start)
            if total is not None:
                check_space(output, total - start)
            self._write(file, first, chunks, start, total)

    def _write(self, file: Any, first: bytes, chunks: Iterator[bytes], start: int, total: int | None) -> None:
        from tqdm import tqdm

        written = start
        name = Path(file.name).name.removeprefix(".").removesuffix(".part")
        bar = tqdm(
            desc=name,
            total=total,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=not self.progress,
            file=sys.stderr,
        )
        with bar:
            try:
                chunk = first
                while chunk:
                    if self.size is None and self.most is not None and written + len(chunk) > self.most:
                        file.truncate(0)  # nothing of an endless answer is worth keeping
                        raise WrongContentError(f"it sends more than {self.most:,} bytes")
                    chunk = chunk if total is None else chunk[: total - written]
                    file.write(chunk)
                    written += len(chunk)
                    bar.update(len(chunk))
                    chunk = b"" if written == total else next(chunks, b"")
            except _BrokenError as error:
                raise SourceError(f"{error} after {_progress(written, total)}") from None
        if total is not None and written < total:
            raise SourceError(f"the connection ended after {_progress(written, total)}")


def _progress(written: int, total: int | None) -> str:
    return f"{written:,} bytes" if total is None else f"{written:,} of {total:,} bytes"


def check_space(path: Path, needed: int) -> None:
    """Check that the disk has room for so many more bytes in the folder of `path`.

    Raises:
        OSError: if it has not.
    """
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            f"{needed:,} more bytes are needed in {path.parent}, only {free:,} are free on its disk; "
            "free some, or choose another `root`."
        )


# What a server answers -----------------------------------------------------------------------------------


class _BrokenError(SourceError):
    """The connection broke."""


def _answer(session: "requests.Session", address: str, held: int) -> tuple["requests.Response", int]:
    """The answer that goes on after `held` bytes, or begins anew, and where its first byte belongs."""
    response = _get(session, address, held)
    if held and (response.status_code == 416 or (response.status_code == 206 and _first(response) != held)):
        response.close()
        held = 0
        response = _get(session, address)
    if response.status_code == 200:
        return response, 0  # the whole file, whatever was asked for
    if held and response.status_code == 206:
        return response, held
    with closing(response):
        raise SourceError(_refusal(response))


def _get(session: "requests.Session", address: str, first: int = 0) -> "requests.Response":
    import requests

    headers = {"Accept-Encoding": "identity"}
    if first:
        headers["Range"] = f"bytes={first}-"
    try:
        return session.get(address, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS)
    except requests.Timeout:
        raise _BrokenError(f"no answer within {_TIMEOUT_SECONDS:g} seconds") from None
    except requests.RequestException as error:
        raise _BrokenError(str(error) or type(error).__name__) from None


def _refuse_unsafe_redirect(response: "requests.Response", **_: Any) -> None:
    """Called with every answer, before a redirection is followed."""
    if response.is_redirect:
        _check_safe(response.url, urljoin(response.url, response.headers["location"]))


def _check_safe(page: str, address: str) -> None:
    """Refuse to go on from an encrypted page to an address that is not.

    Raises:
        SourceError: for such an address.
    """
    if urlsplit(page).scheme == "https" and urlsplit(address).scheme != "https":
        raise SourceError(f"it leads from https to {address}, which is not encrypted")


def _chunks(response: "requests.Response", most: int | None = None) -> Iterator[bytes]:
    """The body as it was sent: an archive that a server labels as compressed must not be uncompressed.

    Of a body without an announced length, at most `most` bytes are waited for.
    """
    import urllib3

    raw = response.raw
    try:
        if most is None or raw.chunked:
            yield from raw.stream(_CHUNK_BYTES, decode_content=False)
            return
        while chunk := raw.read(min(_CHUNK_BYTES, most), decode_content=False):
            most -= len(chunk)
            yield chunk
    except (urllib3.exceptions.ReadTimeoutError, TimeoutError):
        raise _BrokenError(f"no byte came for {_TIMEOUT_SECONDS:g} seconds") from None
    except (urllib3.exceptions.HTTPError, OSError):
        raise _BrokenError("the connection ended") from None


def _refusal(response: "requests.Response") -> str:
    """A status other than success in words."""
    words = f"{response.status_code} {'Client' if response.status_code < 500 else 'Server'} Error: {response.reason}"
    if response.status_code < 400:
        words = f"it answers with status {response.status_code} {response.reason}"
    try:
        chunks = _chunks(response)
        first = next(chunks, b"")
        return f"{words} ({_rest_of_page(response, first, chunks)})" if _is_page(response, first) else words
    except _BrokenError:
        return words


def _first(response: "requests.Response") -> int | None:
    """Where a partial answer says that it begins."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(match["first"]) if match else None


def _announced(response: "requests.Response", start: int) -> int | None:
    """Bytes of the whole file, as the server announces them."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match and response.status_code == 206 and match["total"] != "*":
        return int(match["total"])
    length = response.headers.get("Content-Length", "")
    return start + int(length) if re.fullmatch("[0-9]{1,18}", length) else None


# Web pages -----------------------------------------------------------------------------------------------


def _is_page(response: "requests.Response", first: bytes) -> bool:
    begins = first[:256].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    is_html = "html" in response.headers.get("Content-Type", "").lower()
    return begins.startswith((b"<!doctype html", b"<html")) or (is_html and begins.startswith(b"<"))


def _rest_of_page(response: "requests.Response", first: bytes, chunks: Iterator[bytes]) -> str:
    return page_words(_page(first, chunks), response.url)


def _page(first: bytes, chunks: Iterator[bytes]) -> str:
    """The text of a page, as far as it came."""
    page = first
    try:
        while len(page) < _PAGE_BYTES and (chunk := next(chunks, b"")):
            page += chunk
    except _BrokenError:
        pass
    return page.decode("utf-8", "replace")


def page_words(page: str, address: str = "") -> str:
    """The meaning of a web page that came in an archive's place, in plain words."""
    text = html.unescape(page).replace("’", "'").lower()
    if "quota exceeded" in text or "too many users have viewed or downloaded" in text:
        return (
            f"{_PAGE}: the quota page of Google Drive. Too many people fetched the file lately; it opens again "
            "within about a day"
        )
    if "virus scan warning" in text or "can't scan this file for viruses" in text:
        return f"{_PAGE}: the virus-scan confirmation page of Google Drive, with no form that could be followed"
    signs = ("sign in", "log in", "you need access", 'type="password"')
    if urlsplit(address).hostname == "accounts.google.com" or any(sign in text for sign in signs):
        return f"{_PAGE}: it asks to sign in, the file is not public there"
    title = re.search(r"<title[^>]*>\s*([^<]{1,100})", html.unescape(page), re.IGNORECASE)
    return f"{_PAGE}, entitled {title[1].strip()!r}" if title else _PAGE


def _drive_address(session: "requests.Session", file_id: str) -> str:
    """Where Google Drive delivers a file, once asked to confirm where its size forbids a scan for viruses."""
    answer, _ = _answer(session, f"{_DRIVE_DOWNLOAD}?{urlencode({'export': 'download', 'id': file_id})}", 0)
    with closing(answer) as response:
        chunks = _chunks(response)
        first = next(chunks, b"")
        if not _is_page(response, first):
            return response.url
        page = _page(first, chunks)
        form = _ConfirmationForm()
        form.feed(page)
        if form.action is None:
            raise WrongContentError(page_words(page, response.url))
        action = urlsplit(urljoin(response.url, form.action))
        _check_safe(response.url, action.geturl())
        return action._replace(query=urlencode({**dict(parse_qsl(action.query)), **form.fields})).geturl()


class _ConfirmationForm(HTMLParser):
    """The form `download-form` of a page: its action and its hidden fields."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the form's action, and its fields while it is open."""
        values = dict(attrs)
        if tag == "form" and values.get("id") == "download-form":
            self.action, self._inside = values.get("action"), True
        name = values.get("name")
        if tag == "input" and self._inside and name:
            self.fields[name] = values.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        """Stop at the form's end."""
        if tag == "form":
            self._inside = False
