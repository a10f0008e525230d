"""Whatever happens to a build, for every benchmark from its address to its store: the laws.

Afterwards there is the whole dataset or nothing under the good name, and the next build in the same root makes the
store that an undisturbed one makes and leaves nothing beside it and the archives. That holds for a build killed at any
mark, be it an operation on a file, a chunk of a download, a member of an archive or a block of the store; for two
builds at once; for a disk that is full; and for a server that breaks off, stalls, lies about lengths or serves a page,
where what came is kept and gone on from. Each error names the archive or the store and says what to do.

Archives and pickles made to do harm are refused by the name of the member, even when their checksum is right: nothing
is read, run or written, and there is no store.

What single functions do is tested more finely beside them: `test_fetch`, `test_archives`, `test_pickles`, and
`write_store` in `core/test_sources`.
"""

import dataclasses
import gzip
import hashlib
import io
import itertools
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_image_benchmarks
from helpers import ROOT, every
from test_image_benchmarks import make_cifar, make_cub, make_digits, make_mini, picture, tar
from test_omniglot_build import png_of
from test_pascal5i import IMAGES, SIDE, make_content, write_tar
from test_pickles import python2_list
from test_tiered_imagenet import make as make_tiered

from metabridge.archives import downloaders
from metabridge.archives.fetch import Archive
from metabridge.datasets.benchmarks import Benchmark, build, split_table, store_path
from metabridge.datasets.cifar import CIFAR_FS, read_cifar100
from metabridge.datasets.cub import CUB_200, read_cub
from metabridge.datasets.miniimagenet import MINI_IMAGENET, read_mini_imagenet
from metabridge.datasets.multimnist import DOUBLE_MNIST, read_digits
from metabridge.datasets.omniglot import OMNIGLOT, read_omniglot
from metabridge.datasets.pascal5i import PASCAL_5I, read_pascal
from metabridge.datasets.tieredimagenet import TIERED_IMAGENET, read_tiered_imagenet
from metabridge.sources import HDF5Source

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("interruptions")]

# The benchmarks ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A benchmark whose archives are small, and these.

    Attributes:
        benchmark: with the official archives' names and kinds of checksum; `at` says where the small ones are.
        folder: what holds the small archives, and nothing else.
        fingerprint: of the store that an undisturbed build makes.
        num_bytes: of its examples.
    """

    benchmark: Benchmark
    folder: Path
    fingerprint: str = ""
    num_bytes: int = 0

    @property
    def archives(self) -> list[Path]:
        return [self.folder / archive.name for archive in self.variant.archives]

    @property
    def variant(self):
        (variant,) = self.benchmark.variants.values()
        return variant

    def at(self, addresses, folder=None) -> Benchmark:
        """The benchmark with these addresses of its archives, the small ones or those in another folder."""
        folder = folder or self.folder
        archives = tuple(map(described, self.variant.archives, [folder / p.name for p in self.archives], addresses))
        variants = {name: dataclasses.replace(self.variant, archives=archives) for name in self.benchmark.variants}
        return dataclasses.replace(self.benchmark, variants=variants)

    def served(self, server, folder=None) -> Benchmark:
        """The benchmark whose archives a server has, which goes on with what was begun."""
        paths = [(folder or self.folder) / path.name for path in self.archives]
        return self.at([server.serve(path.name, path.read_bytes(), ranges="honour") for path in paths], folder)


def described(official: Archive, path: Path, url: str) -> Archive:
    """The small archive by what is known of the official one: some have no size, some MD5 alone."""
    content = path.read_bytes()
    return dataclasses.replace(
        official,
        urls=(url,),
        sha256=official.sha256 and hashlib.sha256(content).hexdigest(),
        md5=official.md5 and hashlib.md5(content).hexdigest(),
        size=official.size and len(content),
    )


def contents(path):
    """Member → content of an archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}


def write_zip(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def simply(make, split):
    """A maker that needs the archive's path and the split's table."""
    return lambda folder, archives, drawings: make(folder / archives[0].name, dict(split_table(split)))


def make_small_cub(folder, archives, drawings):
    """Without the table that is larger than all photographs."""
    path = folder / archives[0].name
    make_cub(path, dict(split_table("cub")))
    tar(path, {name: content for name, content in contents(path).items() if "attributes" not in name})


def make_tiered_archive(folder, archives, drawings):
    members, _, totals = make_tiered(0)
    tar(folder / archives[0].name, {f"tiered-imagenet/{name}": content for name, content in members.items()}, "w")
    return partial(read_tiered_imagenet, examples=totals)


def make_pascal_archives(folder, archives, drawings):
    voc, sbd, _ = make_content()
    write_tar(folder / archives[0].name, voc, "w")
    write_tar(folder / archives[1].name, sbd, "w:gz")


def make_omniglot_archive(folder, archives, drawings):
    write_zip(folder / archives[0].name, {f"images_background_small1/{name}": each for name, each in drawings.items()})


@dataclass(frozen=True)
class Row:
    """A benchmark and how its archives are made small: one image a class where that can be."""

    benchmark: Benchmark
    variant: str
    make: Callable
    read: Callable | None = None
    changes: dict = field(default_factory=dict)
    per_class: int = 1


ROWS = {
    row.benchmark.name: row
    for row in [
        Row(CIFAR_FS, "full", simply(make_cifar, "cifar_fs"), partial(read_cifar100, examples_per_class=2),
            per_class=2),
        Row(CUB_200, "full", make_small_cub, partial(read_cub, images=200)),
        Row(DOUBLE_MNIST, "full", simply(partial(make_digits, size=64), "doublemnist"),
            partial(read_digits, title="doublemnist", size=64, examples_per_class=1)),
        Row(MINI_IMAGENET, "full", simply(make_mini, "mini_imagenet"),
            partial(read_mini_imagenet, examples_per_class=1)),
        Row(TIERED_IMAGENET, "full", make_tiered_archive),
        Row(PASCAL_5I, "321", make_pascal_archives, partial(read_pascal, size=SIDE, images=IMAGES),
            {"example_shape": (SIDE, SIDE, 4)}),
        Row(OMNIGLOT, "small1", make_omniglot_archive,
            partial(read_omniglot, title="omniglot", characters={"images_background_small1": 7}), {"splits": {}}),
    ]
}  # fmt: skip
EVERY_BENCHMARK = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def made(tmp_path_factory, drawings):
    """Name → `Made`, once."""
    known = {}

    def get(name):
        if name not in known:
            row, folder = ROWS[name], tmp_path_factory.mktemp(name)
            variant = row.benchmark.variants[row.variant]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(test_image_benchmarks, "PER_CLASS", row.per_class)
                read = row.make(folder, variant.archives, drawings)
            variant = dataclasses.replace(variant, read=row.read or read, num_examples=(), **row.changes)
            begun = Made(dataclasses.replace(row.benchmark, variants={row.variant: variant}), folder)
            nowhere = begun.at(["http://127.0.0.1:9/none"] * len(begun.archives))
            root = tmp_path_factory.mktemp(f"{name}_undisturbed")
            store = HDF5Source(build(nowhere, root, source=folder, progress=False))
            known[name] = dataclasses.replace(begun, fingerprint=store.fingerprint, num_bytes=store.examples.nbytes)
        return known[name]

    return get


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def downloads(benchmark, root):
    return root / benchmark.downloads / "downloads"


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def assert_whole_or_nothing(small, root):
    store = store_path(small.benchmark, root)
    if store.exists():
        source = HDF5Source(store)
        assert source.fingerprint == source.recompute_fingerprint() == small.fingerprint


def assert_built(small, benchmark, root):
    """The next build makes the store, and there is nothing besides it and the archives."""
    store = build(benchmark, root, progress=False)
    source = HDF5Source(store)
    assert source.fingerprint == source.recompute_fingerprint() == small.fingerprint
    kept = [downloads(benchmark, root) / path.name for path in small.archives]
    assert files_in(root) == sorted(str(path.relative_to(root)) for path in [store, *kept])


# Builds in processes of their own ------------------------------------------------------------------------

NURSERY = """
import errno, multiprocessing, os, pickle, resource, signal, sys
import h5py, numpy, PIL.Image, requests, tqdm, urllib3
from metabridge.archives import downloaders, members as archives
from metabridge.datasets import benchmarks
from metabridge.sources import hdf5

PIL.Image.init()
EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.scandir", "os.listdir", "os.truncate", "fcntl.flock"}
MANY = {"chunk", "member", "block", "row"}  # as many as there is data

def before(owner, name, kind, mark):
    call = getattr(owner, name)
    def marked(*arguments, **options):
        mark(kind)
        return call(*arguments, **options)
    setattr(owner, name, marked)

def before_each(items, kind, mark):
    for item in items:
        mark(kind)
        yield item

def instrument(root, mark):
    chunks, written, check = downloaders._chunks, hdf5._written, hdf5._check_written
    downloaders._chunks = lambda *arguments: before_each(chunks(*arguments), "chunk", mark)
    hdf5._written = lambda region, blocks: written(region, before_each(blocks, "block", mark))
    def checked(*arguments, **options):
        check(*arguments, **options)
        mark("checked")
    hdf5._check_written = checked
    before(hdf5._Region, "write", "row", mark)
    before(archives.TarMembers, "open", "member", mark)
    before(archives.ZipMembers, "open", "member", mark)
    before(h5py.AttributeManager, "__setitem__", "attribute", mark)
    before(h5py.File, "__init__", "hdf5", mark)
    before(os, "fsync", "fsync", mark)
    before(os, "posix_fallocate", "reserve", mark)
    def watch(event, arguments):
        if event in EVENTS and (event == "fcntl.flock" or str(arguments[0]).startswith(root)):
            mark(event)
    sys.addaudithook(watch)

def run(job, barrier):
    signal.alarm(120)  # the last resort
    marks, few = [], 0
    def mark(kind):
        nonlocal few
        marks.append(kind)
        number = marks.count(kind)
        few += kind not in MANY or number & (number - 1) == 0
        if number == 1 and kind in job["meet"]:
            barrier.wait()
        if job["kill"] in ((kind, number), ("any", few)):
            os.kill(os.getpid(), signal.SIGKILL)
        if job["full"] == (kind, number):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    instrument(job["root"], mark)
    if job["limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
    try:
        benchmarks.build(job["benchmark"], job["root"], progress=False)
    except BaseException as error:
        return f"{type(error).__name__}: {error}", marks
    return "", marks

while jobs := pickle.load(sys.stdin.buffer):
    barrier = multiprocessing.get_context("fork").Barrier(len(jobs))
    children = []
    for job in jobs:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            with open(write, "wb") as pipe:
                pickle.dump(run(job, barrier), pipe)
            os._exit(0)
        os.close(write)
        children.append((child, open(read, "rb")))
    answers = []
    for child, pipe in children:
        with pipe:
            content = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        answers.append((status, *(pickle.loads(content) if content else ("it did not end by itself", []))))
    pickle.dump(answers, sys.stdout.buffer)
    sys.stdout.flush()
"""


@dataclass(frozen=True)
class End:
    """How a build ended: the exit status of its process, its error if there was one, and the marks that it passed."""

    status: int
    error: str
    marks: list[str]


@pytest.fixture(scope="module")
def nursery():
    """Runs builds at once, each in a process of its own that is forked from one where everything is imported."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1"}
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:

        def builds(*jobs):
            pickle.dump([{"kill": None, "full": None, "limit": 0, "meet": (), **job} for job in jobs], process.stdin)
            process.stdin.flush()
            return [End(*end) for end in pickle.load(process.stdout)]

        yield builds
        pickle.dump([], process.stdin)
        process.stdin.flush()


@pytest.fixture
def build_apart(nursery):
    """One build in a process of its own."""
    return lambda benchmark, root, **job: nursery({"benchmark": benchmark, "root": str(root), **job})[0]


# Killed --------------------------------------------------------------------------------------------------


def chosen(marks):
    """Kinds and numbers of marks: all, but of those that come for every piece of data the first two and the middle."""
    points = []
    for kind in dict.fromkeys(marks):
        count = marks.count(kind)
        many = kind in ("chunk", "member", "block", "row")
        points += [(kind, n) for n in (sorted({1, 2, count // 2 + 1, count}) if many else range(1, count + 1))]
    return points


def killed_and_built(small, server, build_apart, root, point):
    benchmark = small.served(server)
    end = build_apart(benchmark, root, kill=point)
    assert end.status == -signal.SIGKILL, f"{point}: {end}"
    assert_whole_or_nothing(small, root)
    held = {path.name[1:-5]: path.stat().st_size for path in downloads(benchmark, root).glob(".*.part")}
    assert sum(held.values()) or point != ("chunk", 3)
    server.requests.clear()
    server.ranges.clear()
    assert_built(small, benchmark, root)
    for request, found in zip(server.requests, server.ranges, strict=True):
        count = held.get(request.removeprefix("/"))
        assert found == (f"bytes={count}-" if count else None), f"{point}: {held}"


@pytest.mark.parametrize("name", ["doublemnist", "pascal5i"])
def test_a_build_killed_at_any_mark_leaves_the_whole_or_nothing(name, made, server, build_apart, tmp_path):
    """Blocks in order and one archive, and rows in any order and two archives."""
    small = made(name)
    undisturbed = build_apart(small.served(server), tmp_path / "undisturbed")
    assert (undisturbed.status, undisturbed.error) == (0, "")
    assert set(undisturbed.marks) == {
        *("os.mkdir", "open", "fcntl.flock", "chunk", "fsync", "os.rename", "os.listdir", "reserve", "hdf5", "member"),
        *("block", "row", "attribute", "checked", "os.remove"),
    }
    for point in chosen(undisturbed.marks):
        killed_and_built(small, server, build_apart, tmp_path / f"{point[0]}{point[1]}", point)


@pytest.mark.parametrize("name", sorted({*ROWS} - {"doublemnist", "pascal5i"}))
@pytest.mark.parametrize("point", [("chunk", 3), ("block", 4), ("attribute", 4), ("os.rename", 2), ("os.remove", 1)])
def test_a_killed_build_leaves_the_whole_or_nothing(name, point, made, server, build_apart, root):
    """In the middle of the download, of the store and of its last words; before the move, and after it."""
    killed_and_built(made(name), server, build_apart, root, point)


def test_a_build_killed_again_and_again_comes_to_an_end(made, server, build_apart, root):
    """Each time one mark later, in the same root, until there is none."""
    small = made("miniimagenet")
    benchmark = small.served(server)
    for number in itertools.count(1):
        end = build_apart(benchmark, root, kill=("any", number))
        assert_whole_or_nothing(small, root)
        if end.status != -signal.SIGKILL:
            break
    assert (end.status, end.error) == (0, "")
    assert number > 30
    assert_built(small, benchmark, root)


# Two at once ---------------------------------------------------------------------------------------------


@EVERY_BENCHMARK
def test_two_builds_at_once_make_one_store(name, made, server, nursery, root):
    """Both are at the first example at once, and both have whole stores before one is moved."""
    small = made(name)
    benchmark = small.served(server)
    job = {"benchmark": benchmark, "root": str(root), "meet": ("block", "checked")}
    ends = nursery(job, job)
    assert [(end.status, end.error) for end in ends] == [(0, "")] * 2
    assert server.requests == [f"/{path.name}" for path in small.archives]
    assert every({"block", "checked"} <= set(end.marks) for end in ends)
    assert_built(small, benchmark, root)


@pytest.mark.parametrize("name", ["cifar_fs", "cub"])
def test_of_two_builds_one_is_killed(name, made, server, nursery, root):
    small = made(name)
    benchmark = small.served(server)
    job = {"benchmark": benchmark, "root": str(root), "meet": ("block",)}
    killed, other = nursery({**job, "kill": ("block", 2)}, job)
    assert (killed.status, other.status, other.error) == (-signal.SIGKILL, 0, "")
    assert_whole_or_nothing(small, root)
    assert store_path(benchmark, root).exists()
    assert_built(small, benchmark, root)


# A full disk ---------------------------------------------------------------------------------------------


@EVERY_BENCHMARK
def test_a_disk_too_small_for_an_archive(name, made, server, build_apart, root):
    small = made(name)
    benchmark, archive = small.served(server), small.archives[0]
    official, size = small.variant.archives[0], archive.stat().st_size
    limit = size // 2
    end = build_apart(benchmark, root, limit=limit)
    folder = downloads(benchmark, root)
    part = folder / f".{archive.name}.part"
    needed = f"{size - limit:,} bytes more" if official.size else "more"
    assert f"the disk of {folder} is full: {archive.name} needs {needed}, free some or choose another" in end.error
    assert f"{limit:,} bytes are kept in {part}" in end.error
    assert [root / name for name in files_in(root)] == [part]
    server.ranges.clear()
    assert_built(small, benchmark, root)
    assert server.ranges[0] == f"bytes={limit}-"


@EVERY_BENCHMARK
def test_a_disk_too_small_for_the_store(name, made, build_apart, root):
    """Whether that is known from the start or found in the middle."""
    small = made(name)
    benchmark = small.at(["http://127.0.0.1:9/none"] * len(small.archives))
    shutil.copytree(small.folder, downloads(benchmark, root))
    before, store = files_in(root), store_path(benchmark, root)
    for job in ({"limit": small.num_bytes - 1}, {"full": ("row", 5)}, {"full": ("fsync", 1)}):
        end = build_apart(benchmark, root, **job)
        assert f"{store} cannot be stored (" in end.error, job
        assert f"it needs {small.num_bytes:,} bytes, and " in end.error
        assert "Free some space or choose another folder" in end.error
        assert files_in(root) == before
    assert_built(small, benchmark, root)


# A server that misbehaves --------------------------------------------------------------------------------

PAGE = b"<!DOCTYPE html><html><head><title>Please log in</title></head></html>"


def breaks_off(content):
    return {"body": content, "stop": len(content) // 2}, "the connection ended after", len(content) // 2


def stalls(content):
    return {"body": content, "stop": len(content) // 2, "gate": threading.Event()}, "no byte came for 1 seconds", None


def promises_more(content):
    words = r"it announces [0-9,]+ bytes, expected|the connection ended after"
    return {"body": content, "announced": len(content) + 4096}, words, None


def promises_less(content):
    words = r"it announces [0-9,]+ bytes, expected|its md5 is"
    return {"body": content, "announced": len(content) - 4096}, words, 0


def serves_a_page(content):
    return {"body": PAGE}, "a web page arrived instead of the archive", 0


FAULTS = [breaks_off, promises_more, promises_less, serves_a_page]


@pytest.mark.parametrize(
    ("name", "fault"),
    [*((name, fault) for name in ROWS for fault in FAULTS), ("cifar_fs", stalls), ("pascal5i", stalls)],
)
def test_a_server_that_misbehaves_is_named_and_the_next_build_succeeds(
    name, fault, made, server, root, monkeypatch
):  # fmt: skip
    """The last archive is the one that does not come."""
    monkeypatch.setattr(downloaders, "_TIMEOUT_SECONDS", 1.0)
    small = made(name)
    benchmark, archive = small.served(server), small.archives[-1]
    answer, words, kept = fault(archive.read_bytes())
    server.serve(archive.name, **answer)
    with pytest.raises((ConnectionError, ValueError), match=words) as caught:
        build(benchmark, root, progress=False)
    folder = downloads(benchmark, root)
    official = benchmark.variants[ROWS[name].variant].archives[-1]
    assert f"could not download {official}:" in str(caught.value)
    assert f"Get {archive.name} by hand from {server.address}/{archive.name}" in str(caught.value)
    assert f"put it at {folder / archive.name}. " in str(caught.value)
    for each in benchmark.variants[benchmark.default_variant].archives:
        assert f"{each} from {server.address}/" in str(caught.value) or len(small.archives) == 1
    way = f"--from {'FOLDER' if len(small.archives) > 1 else 'FILE'}`"
    assert f"metabridge build {name} --root {root} {way}" in str(caught.value).replace(" --variant 321", "")
    part = folder / f".{archive.name}.part"
    others = [folder / path.name for path in small.archives[:-1]]
    assert {root / each for each in files_in(root)} - {part} == set(others)
    held = part.stat().st_size if part.exists() else 0
    assert held == kept or kept is None
    small.served(server)
    server.ranges.clear()
    assert_built(small, benchmark, root)
    assert server.ranges == [f"bytes={held}-" if held else None]


# Archives made to do harm --------------------------------------------------------------------------------


def tar_member(name, kind=tarfile.REGTYPE, size=None, link=""):
    """Appends one member to a tar archive; without content where a size is announced."""

    def append(path, marker):
        info = tarfile.TarInfo(name.format(marker=marker))
        info.type, info.linkname, info.size = kind, link.format(marker=marker), 4 if size is None else size
        if kind != tarfile.REGTYPE:
            info.size = 0
        with tarfile.open(path, "a") as archive:
            if size is None:
                archive.addfile(info, io.BytesIO(b"evil") if kind == tarfile.REGTYPE else None)
            else:
                archive.addfile(info)
        return info.name

    return append


def tar_twice(path, marker):
    with tarfile.open(path) as archive:
        name = next(member.name for member in archive if member.isfile())
    return tar_member(name)(path, marker)


def zip_member(name, mode=stat.S_IFREG | 0o644, content=b"evil"):
    def append(path, marker):
        info = zipfile.ZipInfo(name.format(marker=marker))
        info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(info, content)
        return info.filename

    return append


def zip_twice(path, marker):
    with zipfile.ZipFile(path) as archive:
        name = archive.namelist()[0]
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zip_member(name)(path, marker)


HOSTILE_TAR = [
    tar_member("../evil"),
    tar_member("images/../../../evil"),
    tar_member("{marker}"),
    tar_member("link", tarfile.SYMTYPE, link="{marker}"),
    tar_member("link", tarfile.LNKTYPE, link="../evil"),
    tar_member("device", tarfile.CHRTYPE),
    tar_member("pipe", tarfile.FIFOTYPE),
    tar_twice,
]
HOSTILE_ZIP = [
    zip_member("../evil"),
    zip_member("train/../../../evil"),
    zip_member("{marker}"),
    zip_member("link", stat.S_IFLNK | 0o777),
    zip_member("pipe", stat.S_IFIFO | 0o644),
    zip_twice,
]
TAR_BOMB, ZIP_BOMB = tar_member("bomb", size=1 << 40), zip_member("bomb", content=bytes(17 << 20))
ARCHIVES = [
    ("doublemnist", 0, HOSTILE_ZIP, ZIP_BOMB),
    *((name, 0, HOSTILE_TAR, TAR_BOMB) for name in ("cifar_fs", "cub", "miniimagenet", "tieredimagenet", "pascal5i")),
    ("pascal5i", 1, HOSTILE_TAR, TAR_BOMB),
]


def hostile_copy(small, which, folder):
    """A copy of a benchmark's archives, and of them the one to change; a tar archive is no longer compressed."""
    shutil.copytree(small.folder, folder)
    path = folder / small.archives[which].name
    if path.suffix in (".tgz", ".gz"):
        path.write_bytes(gzip.decompress(path.read_bytes()))
    return path


def assert_refused(small, server, folder, root, words, marker):
    """Although the checksum is right: no store, no file but the downloads, and nothing ran."""
    benchmark = small.served(server, folder)
    before = files_in(marker.parent)
    with pytest.raises(ValueError, match=words):
        build(benchmark, root, progress=False)
    assert not marker.exists()
    downloaded = [str((downloads(benchmark, root) / p.name).relative_to(marker.parent)) for p in small.archives]
    assert files_in(marker.parent) == sorted({*before, *downloaded})


@pytest.mark.parametrize(("name", "which", "hostile", "bomb"), ARCHIVES)
def test_a_hostile_member_leaves_no_file_outside(name, which, hostile, bomb, made, server, tmp_path):
    """Although the checksum is right: nothing is extracted, so a build ends well or leaves the downloads alone."""
    small = made(name)
    for number, change in enumerate(hostile):
        top = tmp_path / str(number)
        top.mkdir()
        change(hostile_copy(small, which, top / "official"), top / "evil")
        benchmark, before = small.served(server, top / "official"), files_in(top)
        store = []
        with suppress(ValueError):
            store = [str(build(benchmark, top / "root", progress=False).relative_to(top))]
        downloaded = [str((downloads(benchmark, top / "root") / path.name).relative_to(top)) for path in small.archives]
        assert files_in(top) == sorted({*before, *downloaded, *store})
    (tmp_path / "bomb").mkdir()
    path = hostile_copy(small, which, tmp_path / "bomb" / "official")
    bomb(path, tmp_path / "bomb" / "evil")
    words = rf"{re.escape(path.name)}( is not a readable zip or tar archive|: member 'bomb' holds 17,825,792 bytes)"
    assert_refused(small, server, path.parent, tmp_path / "bomb" / "root", words, tmp_path / "bomb" / "evil")


class Evil:
    """Its pickle makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        *(("cifar_fs", f"cifar-100-python/{part}") for part in ("meta", "train", "test")),
        *(("miniimagenet", f"mini-imagenet-cache-{part}.pkl") for part in ("train", "val", "test")),
        *(("tieredimagenet", f"tiered-imagenet/{part}.pkl") for part in ("train_labels", "test_images_png")),
    ],
)
def test_a_pickle_in_an_archive_that_runs_code_is_refused(name, member, made, server, tmp_path):
    small, marker = made(name), tmp_path / "evil"
    members = contents(small.archives[0])
    assert member in members
    pickles = [
        pickle.dumps([{"fine_label_names": Evil(marker)}], 5),
        f"cos\nsystem\n(S'touch {marker}'\ntR.".encode(),
    ]
    for number, content in enumerate(pickles):
        pickle.loads(content)  # elsewhere it would run
        marker.unlink()
        folder, root = tmp_path / f"official{number}", tmp_path / f"root{number}"
        folder.mkdir()
        tar(folder / small.archives[0].name, {**members, member: content}, "w")
        words = rf"{re.escape(small.archives[0].name)}: {re.escape(member)}: it .*nothing of it was run"
        assert_refused(small, server, folder, root, words, marker)


def huge_jpeg():
    """It announces 60,000 × 60,000 pixels."""
    content = bytearray(picture(np.random.default_rng(0), (8, 8, 3), "JPEG")[0])
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = (60_000).to_bytes(2, "big") * 2
    return bytes(content)


HUGE_PNG = png_of(1, 1, announced=(60_000, 60_000))


@pytest.mark.parametrize(
    ("name", "ending", "content"),
    [
        ("cub", "Indigo_Bunting_0000_1.jpg", huge_jpeg()),
        ("doublemnist", "/0_07.png", HUGE_PNG),
        ("pascal5i", "JPEGImages/2008_000003.jpg", huge_jpeg()),
        ("pascal5i", "SegmentationClass/2010_000003.png", HUGE_PNG),
        ("tieredimagenet", "val_images_png.pkl", python2_list([np.frombuffer(HUGE_PNG, np.uint8)[:, None]])),
    ],
)
def test_an_image_that_is_a_bomb_is_refused(name, ending, content, made, server, tmp_path):
    small = made(name)
    folder = shutil.copytree(small.folder, tmp_path / "official")
    path = folder / small.archives[0].name
    members = contents(path)
    (member,) = (each for each in members if each.endswith(ending))
    write = write_zip if path.suffix == ".zip" else tar
    write(path, {**members, member: content})
    assert_refused(small, server, folder, tmp_path / "root", rf"{re.escape(ending)}.*exceeds limit", tmp_path / "evil")
