"""Reading archives: plain members come back byte for byte, everything else is refused."""

import io
import os
import random
import struct
import tarfile
import tracemalloc
import zipfile

import pytest

from metabridge.archives.members import open_members

FILES = {"top/b.png": b"bb" * 50, "top/a/c.png": b"c" * 300, "top/a.txt": b""}


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "good.zip", FILES)


def write_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as zip_file:
        for name, content in files.items():
            zip_file.writestr(name, content)
    return path


def patch_headers(path, local_offset, central_offset, value, width="<H"):
    """Overwrite one field of the first member in both of its headers."""
    raw = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", local_offset), (b"PK\x01\x02", central_offset)):
        struct.pack_into(width, raw, raw.find(signature) + offset, value)
    path.write_bytes(raw)


def read_all(path, **limits):
    with open_members(path, **limits) as members:
        return {name: members.read(name) for name in members.names}


def test_zip_and_folder_hold_the_same_members_in_sorted_order(archive, tmp_path):
    for name, content in FILES.items():
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(content)
    for path in (archive, tmp_path / "unpacked"):
        assert read_all(path) == FILES
        with open_members(path) as members:
            assert members.names == tuple(sorted(FILES))


def test_the_archive_is_only_read(archive, snapshot):
    archive.chmod(0o444)
    before = snapshot(archive.parent)
    read_all(archive)
    assert snapshot(archive.parent) == before


def test_an_unknown_member_is_a_key_error(archive, tmp_path):
    for path in (archive, tmp_path):
        with open_members(path) as members, pytest.raises(KeyError, match=r"\.\./evil"):
            members.read("../evil")


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    path = write_zip(tmp_path / "bomb.zip", {"top/a.png": bytes(1 << 20)})
    assert path.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"'top/a\.png' holds 1,048,576 bytes uncompressed, more than the 1,000"):
        open_members(path, max_member_bytes=1000)
    assert len(read_all(path)["top/a.png"]) == 1 << 20


def test_a_wrong_crc_is_damage(archive):
    patch_headers(archive, 14, 16, 12345, "<I")
    with (
        open_members(archive) as members,
        pytest.raises(ValueError, match=r"damaged .*CRC.*get the archive again"),
    ):
        members.read("top/b.png")


@pytest.mark.parametrize("name", ["page.zip", "page.tar", "page.tar.gz"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>quota exceeded</html>", b"PK", b"PK\x03\x04" + bytes(50), b"\x1f\x8b\x08"]
)
def test_a_file_that_is_no_archive_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is not a readable zip or tar archive \([^\n]*\); .* get it again"):
        open_members(tmp_path / name)


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no archive or folder at .*absent\.zip"):
        open_members(tmp_path / "absent.zip")


def test_a_link_out_of_a_folder_is_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("../secret")
    with pytest.raises(ValueError, match="'link' is a symbolic link that leaves its folder"):
        open_members(folder)


def test_a_link_within_a_folder_is_followed_to_a_file_only(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a/file")
    assert read_all(tmp_path) == {"a/file": b"content", "link": b"content"}
    (tmp_path / "loop").symlink_to("a")
    with pytest.raises(ValueError, match="'loop' is a symbolic link to a folder"):
        open_members(tmp_path)


def test_a_broken_or_circular_link_is_refused(tmp_path):
    for target in ("absent", "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(ValueError, match="'link' is a broken symbolic link"):
            open_members(tmp_path)


def test_a_pipe_in_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="'pipe' is neither a file nor a folder"):
        open_members(tmp_path)


def test_a_large_file_in_a_folder_is_refused_when_it_is_read(tmp_path):
    """Another file that lies there, and that nobody reads, is no reason to refuse the folder."""
    (tmp_path / "large").write_bytes(bytes(1001))
    (tmp_path / "small").write_bytes(b"x")
    members = open_members(tmp_path, max_member_bytes=1000)
    assert members.read("small") == b"x"
    for read in (members.read, members.open, lambda name: list(members.stream([name]))):
        with pytest.raises(ValueError, match="'large' holds 1,001 bytes uncompressed, more than the 1,000"):
            read("large")


# Tar archives --------------------------------------------------------------------------------------------

TARS = {"": ".tar", "gz": ".tar.gz", "bz2": ".tar.bz2"}


def write_tar(path, files, compression="", form=tarfile.PAX_FORMAT, **changes):
    """A tar archive; `changes` are attributes of its last member."""
    with tarfile.open(path, f"w:{compression}", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if name == list(files)[-1]:
                for attribute, value in changes.items():
                    setattr(info, attribute, value)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("compression", TARS)
def test_every_tar_holds_the_same_members(tmp_path, compression, form):
    long = {"top/" + "long" * 20 + "/" + "name" * 20 + ".png": b"long", **FILES}
    path = write_tar(tmp_path / f"good{TARS[compression]}", long, compression, form)
    assert read_all(path) == long
    with open_members(path) as members:
        assert members.names == tuple(sorted(long))
        assert list(members.stream()) == list(long.items()), "archive order"
        assert members.read("top/b.png") == members.read("top/b.png")


@pytest.mark.parametrize("place", [-1, -5])
def test_the_checksum_of_a_gzip_file_is_looked_at(tmp_path, place):
    """It stands behind the last member, where nothing else would look."""
    path = write_tar(tmp_path / "bad.tar.gz", FILES, "gz")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is not a readable zip or tar archive \(.*\); it is corrupt"):
        open_members(path)


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    with pytest.raises(ValueError, match=r"pipe\.zip must be a file, it is a named pipe"):
        open_members(tmp_path / "pipe.zip")


def test_an_archive_is_known_by_its_content_not_by_its_name(tmp_path):
    for compression in TARS:
        assert read_all(write_tar(tmp_path / "data.zip", FILES, compression)) == FILES
    assert read_all(write_zip(tmp_path / "data.tar.gz", FILES)) == FILES


def test_folders_and_the_dot_that_tar_writes_are_no_members(tmp_path):
    with tarfile.open(tmp_path / "dots.tar", "w") as tar:
        for name in (".", "./top", "./top"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("./top/a.txt"))
    assert read_all(tmp_path / "dots.tar") == {"top/a.txt": b""}


@pytest.mark.parametrize("compression", TARS)
def test_a_tar_bomb_is_refused_before_it_is_unpacked(tmp_path, compression):
    path = write_tar(tmp_path / "bomb", {"a": b"", "b": bytes(8 << 20)}, compression)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="'b' holds 8,388,608 bytes uncompressed, more than the 1,000 allowed"):
            open_members(path, max_member_bytes=1000)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert len(read_all(path)["b"]) == 8 << 20


@pytest.mark.parametrize("kind", ["zip", "tar", "folder"])
def test_many_members_that_are_a_bomb_together_are_refused(tmp_path, kind):
    files = {f"{i:02d}": bytes(100) for i in range(30)}
    path = tmp_path / "bomb"
    if kind == "folder":
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
    else:
        {"zip": write_zip, "tar": write_tar}[kind](path, files)
    assert len(read_all(path, max_total_bytes=3000)) == 30
    with open_members(path, max_total_bytes=3000) as members:
        for _ in range(3):
            assert members.read("00") == bytes(100), "reading again adds nothing"
    with pytest.raises(ValueError, match=r"'29' brings the members to 3,000 bytes, more than the 2,999 allowed"):
        read_all(path, max_total_bytes=2999)


def test_what_is_no_file_in_a_tar_is_no_member(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        path = write_tar(tmp_path / "data.tar", {**FILES, "top/other": b""}, type=kind, linkname="/etc/passwd")
        assert read_all(path) == FILES


# Streams -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["zip", "folder", *TARS])
def stored(request, tmp_path):
    """The same files in every kind of container."""
    if request.param == "zip":
        return write_zip(tmp_path / "files.zip", FILES)
    if request.param == "folder":
        for name, content in FILES.items():
            (tmp_path / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "files" / name).write_bytes(content)
        return tmp_path / "files"
    return write_tar(tmp_path / "files.tar", FILES, request.param)


def test_a_stream_holds_all_members_or_those_named(stored):
    with open_members(stored) as members:
        order = sorted(FILES) if stored.is_dir() else list(FILES)
        assert list(members.stream()) == [(name, FILES[name]) for name in order]
        wanted = ["top/a/c.png", "top/b.png"]
        assert list(members.stream(wanted)) == [(name, FILES[name]) for name in order if name in wanted]
        assert list(members.stream([])) == []
        with pytest.raises(KeyError, match="absent"):
            members.stream(["top/b.png", "absent"])
        with pytest.raises(KeyError, match="absent"):
            members.read("absent")
        with pytest.raises(KeyError, match="absent"):
            members.open("absent")


def test_an_open_member_reads_like_a_file_beside_others(stored):
    with open_members(stored) as members, members.open("top/b.png") as first, members.open("top/a/c.png") as second:
        assert first.read(3) == b"bbb"
        assert second.read(2) == b"cc"
        assert next(members.stream(["top/b.png"]))[1] == FILES["top/b.png"]
        assert first.read() == FILES["top/b.png"][3:]
        assert second.readline() == FILES["top/a/c.png"][2:]
        assert first.read() == b""


def test_a_stream_is_one_pass_over_a_compressed_archive(tmp_path, monkeypatch):
    files = {f"{i:02d}": random.Random(i).randbytes(20_000) for i in range(20)}
    path = write_tar(tmp_path / "data.tar.gz", files, "gz")
    with open_members(path) as members:
        rewinds = []
        unpacking = members._tar.fileobj._buffer.raw
        rewind = unpacking._rewind
        monkeypatch.setattr(unpacking, "_rewind", lambda: (rewinds.append(1), rewind()))
        assert dict(members.stream()) == files
        assert len(rewinds) == 1


def test_a_stream_holds_one_member_in_memory(tmp_path):
    path = write_tar(tmp_path / "data.tar.gz", {f"{i}": bytes(2 << 20) for i in range(10)}, "gz")
    with open_members(path) as members:
        tracemalloc.start()
        try:
            assert sum(len(content) for _, content in members.stream()) == 20 << 20
            assert tracemalloc.get_traced_memory()[1] < 10 << 20
        finally:
            tracemalloc.stop()
