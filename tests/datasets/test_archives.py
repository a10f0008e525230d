"""Reading archives: plain members come back byte for byte, everything else is refused."""

import io
import os
import random
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from contextlib import suppress

import pytest

from metabridge.archives import members as archives
from metabridge.archives.members import open_members, unsafe_reason

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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leaves its folder"),
        ("top/../../evil", "leaves its folder"),
        ("../", "leaves its folder"),
        ("/etc/evil", "is an absolute path"),
        ("C:/evil", "names a drive"),
        ("C:evil", "names a drive"),
        ("..\\evil", "holds a backslash"),
        ("top//evil", "is not a plain path"),
        ("./evil", "is not a plain path"),
    ],
)
def test_an_unsafe_name_is_refused(tmp_path, snapshot, name, reason):
    path = write_zip(tmp_path / "bad.zip", {**FILES, name: b"evil"})
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=rf"bad\.zip: member .*evil.* {reason}|'\.\./' {reason}"):
        open_members(path)
    assert snapshot(tmp_path) == before


def test_a_name_cut_by_a_null_byte_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.zip", {"aXb.png": b"evil"})
    path.write_bytes(path.read_bytes().replace(b"aXb.png", b"a\0b.png"))
    with pytest.raises(ValueError, match="is not a plain path"):
        open_members(path)


def test_a_plain_name_is_safe():
    assert unsafe_reason("images_background/Ojibwe_(Canadian_Aboriginal_Syllabics)/character01/0001_01.png") is None


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(stat.S_IFLNK, "is a symbolic link"), (stat.S_IFIFO, "is neither a file nor a folder")],
)
def test_a_member_that_is_no_file_is_refused(tmp_path, kind, reason):
    info = zipfile.ZipInfo("top/link.png")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as zip_file:
        zip_file.writestr(info, "/etc/passwd")
    with pytest.raises(ValueError, match=f"'top/link.png' {reason}"):
        open_members(tmp_path / "bad.zip")


def test_an_encrypted_member_is_refused(archive):
    patch_headers(archive, 6, 8, 1)
    with pytest.raises(ValueError, match=r"good\.zip: member 'top/b\.png' is encrypted"):
        open_members(archive)


def test_an_unusual_compression_is_refused(tmp_path):
    path = write_zip(tmp_path / "bad.zip", FILES, zipfile.ZIP_BZIP2)
    with pytest.raises(ValueError, match=r"'top/b\.png' is compressed by method 12"):
        open_members(path)


def test_a_duplicate_member_is_refused(archive):
    with zipfile.ZipFile(archive, "a") as zip_file, pytest.warns(UserWarning, match="Duplicate name"):
        zip_file.writestr("top/b.png", b"another")
    with pytest.raises(ValueError, match=r"'top/b\.png' appears twice"):
        open_members(archive)


def test_a_bomb_is_refused_before_it_is_read(tmp_path):
    path = write_zip(tmp_path / "bomb.zip", {"top/a.png": bytes(1 << 20)})
    assert path.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"'top/a\.png' holds 1,048,576 bytes uncompressed, more than the 1,000"):
        open_members(path, max_member_bytes=1000)
    assert len(read_all(path)["top/a.png"]) == 1 << 20


@pytest.mark.parametrize("announced", [10, 99, 101, 5000])
def test_a_member_that_lies_about_its_size_is_damaged(archive, announced):
    patch_headers(archive, 22, 24, announced, "<I")
    with open_members(archive) as members, pytest.raises(ValueError, match=r"member 'top/b\.png' is damaged"):
        members.read("top/b.png")


def test_a_wrong_crc_is_damage(archive):
    patch_headers(archive, 14, 16, 12345, "<I")
    with (
        open_members(archive) as members,
        pytest.raises(ValueError, match=r"damaged .*CRC.*get the archive again"),
    ):
        members.read("top/b.png")


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    for content in (b"", b"<html>quota exceeded</html>"):
        (tmp_path / "page.zip").write_bytes(content)
        with pytest.raises(ValueError, match=r"page\.zip is not a readable zip archive .*get it again"):
            open_members(tmp_path / "page.zip")


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no archive or folder at .*absent\.zip"):
        open_members(tmp_path / "absent.zip")


def test_a_damaged_archive_gives_its_bytes_or_a_value_error(archive):
    """Cut anywhere, or with any bytes overwritten: never another exception, never wrong bytes.

    That a member is missing altogether is for the archive's checksum to find.
    """
    raw = archive.read_bytes()
    draw = random.Random(0)
    damaged = [raw[:length] for length in range(0, len(raw), 7)]
    for _ in range(400):
        changed = bytearray(raw)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(raw))] = draw.randrange(256)
        damaged.append(bytes(changed))
    errors = []
    for content in damaged:
        archive.write_bytes(content)
        try:
            assert set(read_all(archive).values()) <= set(FILES.values())
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > len(damaged) // 2
    assert all(str(archive) in error for error in errors)


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
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "leaves its folder"),
        ("top/../../evil", "leaves its folder"),
        ("./../evil", "leaves its folder"),
        ("/etc/evil", "is an absolute path"),
        ("C:/evil", "names a drive"),
        ("..\\evil", "holds a backslash"),
        ("top//evil", "is not a plain path"),
        ("././evil", "is not a plain path"),
    ],
)
def test_an_unsafe_name_in_a_tar_is_refused(tmp_path, compression, name, reason):
    path = write_tar(tmp_path / f"bad{TARS[compression]}", {**FILES, name: b"evil"}, compression)
    with pytest.raises(ValueError, match=rf"bad\{TARS[compression]}: member '.*evil' {reason}; nothing was read"):
        open_members(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a symbolic link"),
        ({"type": tarfile.SYMTYPE, "linkname": "top/b.png"}, "is a symbolic link"),
        ({"type": tarfile.LNKTYPE, "linkname": "top/b.png"}, "is a hard link"),
        ({"type": tarfile.LNKTYPE, "linkname": "../../etc/passwd"}, "is a hard link"),
        ({"type": tarfile.CHRTYPE}, "is neither a file nor a folder"),
        ({"type": tarfile.BLKTYPE}, "is neither a file nor a folder"),
        ({"type": tarfile.FIFOTYPE}, "is neither a file nor a folder"),
        ({"type": tarfile.CONTTYPE, "size": 0}, "is neither a file nor a folder"),
        ({"type": b"Z", "size": 0}, "is neither a file nor a folder"),
        ({"pax_headers": {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1"}}, "is a sparse"),
    ],
)
def test_a_tar_member_that_is_no_file_is_refused(tmp_path, changes, reason):
    path = write_tar(tmp_path / "bad.tar", {**FILES, "top/evil": b"x"}, **changes)
    with pytest.raises(ValueError, match=rf"bad\.tar: member 'top/evil' {reason}"):
        open_members(path)


def test_a_duplicate_in_a_tar_is_refused(tmp_path):
    path = write_tar(tmp_path / "bad.tar", {**FILES, "./top/b.png": b"another"})
    with pytest.raises(ValueError, match=r"member '\./top/b\.png' appears twice"):
        open_members(path)


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


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_many_members_that_are_a_bomb_together_are_refused(tmp_path, write, monkeypatch):
    path = write(tmp_path / "bomb", {f"{i:02d}": bytes(100) for i in range(30)})
    assert len(read_all(path, max_total_bytes=3000)) == 30
    with pytest.raises(ValueError, match=r"'29' brings all members together to 3,000 bytes .* the 2,999 allowed"):
        open_members(path, max_total_bytes=2999)
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 20)
    with pytest.raises(ValueError, match="'20' is one more than the 20 members allowed"):
        open_members(path)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_name_as_long_as_a_bomb_is_refused(tmp_path, form):
    path = write_tar(tmp_path / "bomb.tar.gz", {**FILES, "n" * (8 << 20): b""}, "gz", form)
    assert path.stat().st_size < 40_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bomb\.tar\.gz is not a readable tar archive \(a header is longer than"):
            open_members(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def tar_header(name, size, kind=b"0"):
    """A header block with any size, negative ones included."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    block[124:136] = (b"\xff" if size < 0 else b"\x80") + size.to_bytes(11, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"L", b"x"])
@pytest.mark.parametrize("size", [-512, -1024, -(1 << 40), 1 << 70])
def test_a_tar_that_leads_backwards_or_nowhere_ends(tmp_path, kind, size):
    path = tmp_path / "bad.tar"
    path.write_bytes(tar_header("a", 0) + tar_header("b", size, kind) + bytes(10240))
    reason = "its headers do not follow" if kind == b"0" and size == -512 else ""
    with pytest.raises(ValueError, match=rf"bad\.tar.*{reason}"):
        open_members(path)


def test_a_damaged_tar_gives_its_bytes_or_a_value_error(tmp_path):
    """Cut anywhere: always an error. Any bytes overwritten: never another exception."""
    draw = random.Random(0)
    path = tmp_path / "data.tar"
    for compression in TARS:
        raw = write_tar(path, {**FILES, "n" * 120: b"long"}, compression).read_bytes()
        end = len(raw) if compression else raw.rfind(b"long") + 4
        for length in range(0, end, 61):
            path.write_bytes(raw[:length])
            with pytest.raises(ValueError, match=r"data\.tar"):
                read_all(path)
        for _ in range(150):
            changed = bytearray(raw)
            for _ in range(draw.randint(1, 3)):
                changed[draw.randrange(end)] = draw.randrange(256)
            path.write_bytes(changed)
            with suppress(ValueError):
                read_all(path)


def test_what_tar_cannot_read_is_not_the_end(tmp_path):
    path = write_tar(tmp_path / "data.tar", FILES)
    raw = bytearray(path.read_bytes())
    raw[raw.rfind(b"top/a.txt") + 150] ^= 1  # the checksum of the last header
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"data\.tar is not a readable tar archive \(it does not end as"):
        open_members(path)


def test_a_tar_of_nothing_is_refused(tmp_path):
    (tmp_path / "empty.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.tar is not a readable tar archive \(empty file\)"):
        open_members(tmp_path / "empty.tar")


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
        rewind = members._tar._buffer.raw._rewind
        monkeypatch.setattr(members._tar._buffer.raw, "_rewind", lambda: (rewinds.append(1), rewind()))
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


def test_an_open_member_that_lies_about_its_size_is_damaged(archive):
    for announced in (10, 99, 101, 5000):
        patch_headers(archive, 22, 24, announced, "<I")
        with (
            open_members(archive) as members,
            members.open("top/b.png") as file,
            pytest.raises(ValueError, match=r"member 'top/b\.png' is damaged"),
        ):
            file.read()


def test_a_tar_cut_short_after_it_was_opened_is_damaged(tmp_path):
    path = write_tar(tmp_path / "data.tar", {"a": bytes(100_000)})
    with open_members(path) as members:
        os.truncate(path, 50_000)
        with pytest.raises(ValueError, match="member 'a' is damaged"):
            members.read("a")
        with members.open("a") as file, pytest.raises(ValueError, match="member 'a' is damaged"):
            file.read()
