"""Reading archives: plain members come back byte for byte, everything else is refused."""

import os
import random
import stat
import struct
import zipfile

import pytest

from metabridge.datasets.archives import open_members, unsafe_reason

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


def test_a_large_file_in_a_folder_is_refused(tmp_path):
    (tmp_path / "large").write_bytes(bytes(1001))
    with pytest.raises(ValueError, match="'large' holds 1,001 bytes uncompressed, more than the 1,000"):
        open_members(tmp_path, max_member_bytes=1000)
