"""CIFAR: reading the official files, refusing damaged and hostile ones, and getting the archive."""
import hashlib
import io
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy
import pytest
from support.harness import ROOT, call_script

import run_cifar
from tinyres.datasets import cifar10, cifar100
from tinyres.datasets.archive import Archive, fetch
from tinyres.datasets.cifar import CIFAR10, CIFAR100, _read_batch, _read_classes

ROWS = 4  # images in the small batches below


# Writing files as the official archive has them


def python2_string(content: bytes) -> bytes:
    if len(content) < 256:
        return b"U" + bytes([len(content)]) + content
    return b"T" + struct.pack("<i", len(content)) + content


def python2_pickle(batch: dict[str, object]) -> bytes:
    """The bytes that Python 2's cPickle and NumPy 1 write for a batch, by hand."""
    out = [b"\x80\x02}q\x01("]
    for key, value in batch.items():
        out.append(python2_string(key.encode()))
        if isinstance(value, numpy.ndarray):
            shape = b"".join(b"J" + struct.pack("<i", size) for size in value.shape)
            out += [b"cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03",
                    b"K\x00\x85U\x01b\x87Rq\x04(K\x01", shape,
                    b"\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06",
                    b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
                    python2_string(value.tobytes()), b"tb"]
        elif isinstance(value, list):
            out.append(b"](")
            out += [b"K" + bytes([item]) if isinstance(item, int) else python2_string(item.encode())
                    for item in value]
            out.append(b"e")
        else:
            out.append(python2_string(value.encode()))
    return b"".join([*out, b"u."])


def python3_pickle(batch: dict[str, object], protocol: int) -> bytes:
    return pickle.dumps({key.encode(): value for key, value in batch.items()}, protocol=protocol)


def columns_first_pickle(batch: dict[str, object]) -> bytes:
    return pickle.dumps({**batch, "data": numpy.asfortranarray(batch["data"])}, protocol=2)


def numpy1_protocol5_pickle(batch: dict[str, object]) -> bytes:
    content = pickle.dumps(batch, protocol=5)
    assert content[2:3] == b"\x95" and content.count(b"\x13numpy._core.numeric") == 1
    without_frame = content[:2] + content[11:]  # the frame tells a length, which changes with the name
    return without_frame.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")


WRITERS = {
    "Python 2": python2_pickle,
    "protocol 2": lambda batch: python3_pickle(batch, 2),
    "protocol 3": lambda batch: python3_pickle(batch, 3),
    "protocol 4": lambda batch: python3_pickle(batch, 4),
    "protocol 5": lambda batch: python3_pickle(batch, 5),
    "str keys": lambda batch: pickle.dumps(batch, protocol=4),
    "columns first": columns_first_pickle,
    "NumPy 1, protocol 5": numpy1_protocol5_pickle,
}


def random_batch(rows: int, classes: int = 10, key: str = "labels") -> dict[str, object]:
    rng = numpy.random.default_rng(7)
    return {"batch_label": "training batch 1 of 5", key: [i % classes for i in range(rows)],
            "data": numpy.frombuffer(rng.bytes(rows * 3072), numpy.uint8).reshape(rows, 3072),
            "filenames": [f"picture_{i}.png" for i in range(rows)]}


def images_of(batch: dict[str, object]) -> numpy.ndarray:
    return numpy.stack([numpy.stack([row[:1024], row[1024:2048], row[2048:]], axis=-1).reshape(32, 32, 3)
                     for row in batch["data"]])


@pytest.fixture
def batch_file(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    return folder / "data_batch_1"


@pytest.fixture
def large_root(tmp_path):
    yield tmp_path
    shutil.rmtree(tmp_path)  # pytest would keep the 186 MB of the last three runs


# Reading


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_reads_every_kind_of_pickle(batch_file, writer):
    batch = random_batch(ROWS)
    batch_file.write_bytes(writer(batch))
    images, labels = _read_batch(batch_file, "labels", ROWS, classes=10)
    assert images.dtype == numpy.uint8 and images.shape == (ROWS, 32, 32, 3)
    assert images.flags.c_contiguous and images.flags.writeable
    numpy.testing.assert_array_equal(images, images_of(batch))
    assert labels.dtype == numpy.int64 and labels.tolist() == batch["labels"]


def test_cifar10_puts_the_batches_together_in_order(large_root):
    folder = large_root / "cifar-10-batches-py"
    folder.mkdir()
    batch = random_batch(10_000)
    for number, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        batch["data"] = numpy.full((10_000, 3072), number, numpy.uint8)
        batch["labels"] = [number] * 9_999 + [9]
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"num_vis": "3072", "label_names": list("abcdefghij")}
    (folder / "batches.meta").write_bytes(python2_pickle(meta))
    data = cifar10(large_root)
    assert data.train.images.shape == (50_000, 32, 32, 3) and data.test.images.shape == (10_000, 32, 32, 3)
    assert data.train.images[::10_000, 31, 31, 2].tolist() == [0, 1, 2, 3, 4]
    assert numpy.bincount(data.train.labels).tolist() == [9_999] * 5 + [0] * 4 + [5]
    assert (data.test.images == 5).all() and data.test.labels[:2].tolist() == [5, 5]
    assert data.classes == tuple("abcdefghij")


def test_cifar100_reads_the_fine_labels_and_a_dry_run_trains_on_them(large_root, monkeypatch):
    folder = large_root / "cifar-100-python"
    folder.mkdir()
    names = [f"class {i}" for i in range(100)]
    for name, rows in ("train", 50_000), ("test", 10_000):
        batch = random_batch(rows, classes=100, key="fine_labels")
        batch["coarse_labels"] = [label // 5 for label in batch["fine_labels"]]
        (folder / name).write_bytes(python2_pickle(batch))
    meta = {"coarse_label_names": names[:20], "fine_label_names": names}
    (folder / "meta").write_bytes(python2_pickle(meta))
    read = []
    monkeypatch.setitem(run_cifar.DATASETS, "cifar100", lambda root: read.append(cifar100(root)) or read[0])
    printed = call_script(ROOT / "run_cifar.py", "--dataset", "cifar100", "--data", large_root, "--blocks", 1,
                          "--widths", 4, "--batch-size", 4, "--dry-run", "--backend", "numpy")
    assert "50,000 steps  about" in printed and "estimate" in printed
    data, = read
    assert data.train.images.shape == (50_000, 32, 32, 3) and data.test.images.shape == (10_000, 32, 32, 3)
    numpy.testing.assert_array_equal(data.train.labels, numpy.arange(50_000) % 100)
    numpy.testing.assert_array_equal(data.test.images[:20], images_of({"data": batch["data"][:20]}))
    assert data.classes == tuple(names)


# Malformed files


def changed(**changes: object) -> bytes:
    batch = {**random_batch(ROWS), **changes}
    return pickle.dumps({key: value for key, value in batch.items() if value is not None}, protocol=4)


PIXELS = random_batch(ROWS)["data"]
MALFORMED = {
    "empty": (b"", "EOFError|ValueError"),
    "text": (b"<html>not found</html>", "ValueError"),
    "a list": (pickle.dumps([1, 2]), "holds a list"),
    "no data": (changed(data=None), "'data' is a NoneType"),
    "data is bytes": (changed(data=PIXELS.tobytes()), "'data' is a bytes"),
    "float data": (changed(data=PIXELS.astype(numpy.float32)), "dtype f4"),
    "object data": (changed(data=PIXELS[:, :2].astype(object)), "dtype O8"),
    "record data": (changed(data=PIXELS.view("u1,u1,u1")), "dtype V3"),
    "too few columns": (changed(data=PIXELS[:, :3071].copy()), "shape (4, 3071)"),
    "too few rows": (changed(data=PIXELS[:3]), "shape (3, 3072)"),
    "three axes": (changed(data=PIXELS.reshape(ROWS, 3, 1024)), "shape (4, 3, 1024)"),
    "no labels": (changed(labels=None), "'labels' is not a list of ints"),
    "labels are an array": (changed(labels=numpy.zeros(ROWS, numpy.uint8)), "'labels' is not a list of ints"),
    "labels are strings": (changed(labels=["1"] * ROWS), "'labels' is not a list of ints"),
    "labels are truths": (changed(labels=[True] * ROWS), "'labels' is not a list of ints"),
    "too few labels": (changed(labels=[1] * 3), "has 3 elements, expected 4"),
    "label too large": (changed(labels=[1, 2, 3, 10]), "from 1 to 10, expected 0 to 9"),
    "label too small": (changed(labels=[1, -1, 3, 2]), "from -1 to 3"),
    "label enormous": (changed(labels=[1, 2, 3, 10**18]), "expected 0 to 9"),
    "cut short": (changed()[:-200], "ValueError|UnpicklingError|EOFError"),
    "bytes at the end": (changed() + b"more", "the pickle ends after"),
    # A terabyte announced and never filled; then tables that would grow to the largest number named.
    "array never filled": (b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
                           b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85U\x01b\x87Rs.", "expected a uint8 array"),
    "huge memo number": (b"\x80\x02}r\xff\xff\xff\x7f.", "'data' is a NoneType"),
    "huge memo number in text": (b"\x80\x02}p99999999999\n.", "an instruction PUT"),
    "huge length": (b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x.", "ValueError"),
    "huge frame": (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.", "'data' is a NoneType"),
    "too many objects": (b"\x80\x02" + b"}" * 10_000 + b".", "more objects than 4 images need"),
}


@pytest.mark.parametrize("content, reason", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_named_with_its_fault_and_the_remedy(batch_file, content, reason):
    batch_file.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        _read_batch(batch_file, "labels", ROWS, classes=10)
    message = str(caught.value)
    assert any(part in message for part in reason.split("|")), message
    assert message.startswith(f"{batch_file} is not as the official archive has it: ")
    assert f"Delete the folder {batch_file.parent} and run again" in message


def test_a_file_too_large_is_refused_before_it_is_read(batch_file):
    with open(batch_file, "wb") as file:
        file.truncate(2**36)  # 64 GiB that take no room on the disk
    with pytest.raises(ValueError, match="it has more than"):
        _read_batch(batch_file, "labels", ROWS, classes=10)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(FileNotFoundError, match="data_batch_1 is missing. Delete the folder"):
        cifar10(tmp_path)


@pytest.mark.parametrize("names", [["a"] * 9, [1] * 10, "abcdefghij", None])
def test_class_names_that_are_not_ten_strings_are_refused(tmp_path, names):
    meta = tmp_path / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": names}))
    with pytest.raises(ValueError, match="batches.meta is not as the official archive has it: 'label_names'"):
        _read_classes(meta, "label_names", classes=10)


# Hostile files


def call(module: str, name: str, *arguments: object, protocol: int = 2) -> bytes:
    """The body of a pickle that calls module.name(*arguments)."""
    packed = b"(" + b"".join(pickle.dumps(argument, protocol=0)[:-1] for argument in arguments) + b"tR"
    if protocol == 2:
        return f"c{module}\n{name}\n".encode() + packed
    names = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return names + b"\x93" + packed


def hostile_calls(marker: Path) -> dict[str, tuple[str, str, tuple[object, ...]]]:
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "system": ("os", "system", (f"touch {marker}",)),
        "eval": ("builtins", "eval", (write,)),
        "python 2": ("__builtin__", "eval", (write,)),
        "numpy runs strings": ("numpy.testing._private.utils", "runstring", (write, {})),
        "numpy writes files": ("numpy", "save", (str(marker), 0)),
        "numpy takes memory": ("numpy", "zeros", (2**40,)),
        "through an admitted name": ("numpy._core.numeric", "_frombuffer.__globals__.get", ("x",)),
        "another name of an admitted module": ("numpy.core.multiarray", "fromstring", ("x",)),
        "a prefix": ("numpy.ndarray", "tofile", (str(marker),)),
        "attributes": ("builtins", "getattr", ("x", "upper")),
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("kind", hostile_calls(Path("x")))
def test_a_pickle_that_calls_anything_is_refused_without_running_it(batch_file, tmp_path, kind, protocol):
    marker = tmp_path / "marker.npy"
    module, name, arguments = hostile_calls(marker)[kind]
    body = call(module, name, *arguments, protocol=protocol)
    alone = bytes([0x80, protocol]) + body + b"."
    if kind in ("system", "eval"):  # show once that these are live
        pickle.loads(alone)
        assert marker.exists()
        marker.unlink()
    within = python2_pickle(random_batch(ROWS))[:-2] + python2_string(b"extra") + body + b"u."
    for content in alone, bytes([0x80, protocol]) + within[2:]:
        batch_file.write_bytes(content)
        with pytest.raises(ValueError) as caught:
            _read_batch(batch_file, "labels", ROWS, classes=10)
        assert f"it asks for '{module}.{name}'" in str(caught.value)
        assert not marker.exists()


def test_a_pickle_cannot_change_the_reader(batch_file):
    # BUILD with (None, dict) sets attributes: here the defaults of the function that makes an array.
    attack = (b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\n"
              b"N}U\x0c__defaults__U\x01x\x85s\x86bs.")
    for content in attack, attack.replace(b"numpy.core.multiarray\n_reconstruct", b"numpy\nndarray"):
        batch_file.write_bytes(content)
        with pytest.raises(ValueError, match="is not as the official archive has it"):
            _read_batch(batch_file, "labels", ROWS, classes=10)
    batch_file.write_bytes(python2_pickle(random_batch(ROWS)))
    images, _ = _read_batch(batch_file, "labels", ROWS, classes=10)
    numpy.testing.assert_array_equal(images, images_of(random_batch(ROWS)))


# Getting the archive


FOLDER = "small-batches-py"
CONTENTS = {name: name.encode() * 30_000 for name in ("train", "test", "meta")}


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def members(**changes: tuple[tarfile.TarInfo, bytes]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """What the archive should hold, with some of its files exchanged."""
    files = {name: member(f"{FOLDER}/{name}", content) for name, content in CONTENTS.items()}
    return [member(FOLDER, type=tarfile.DIRTYPE, mode=0o755), *{**files, **changes}.values()]


def packed(content: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=0) as tar:
        for info, body in content:
            if len(body) == info.size:
                tar.addfile(info, io.BytesIO(body))
            else:  # a header that promises more than follows
                tar.fileobj.write(info.tobuf())
    return buffer.getvalue()


def archive_of(content: bytes, base: str = "http://127.0.0.1:9/whole") -> Archive:
    return Archive(url=f"{base}/small.tar.gz", md5=hashlib.md5(content).hexdigest(), size=len(content),
                    folder=FOLDER, files=tuple(CONTENTS))


ARCHIVE = packed(members())


def assert_whole(folder: Path, root: Path) -> None:
    assert folder == root / FOLDER
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENTS


@pytest.fixture
def server():
    """The address of a server on this machine. The first part of the path says how it behaves."""
    done = threading.Event()
    meeting = threading.Barrier(4)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            behavior = self.path.split("/")[1]
            if behavior == "missing":
                self.send_error(404)
                return
            if behavior in ("loop", "nowhere"):
                self.send_response(302)
                self.send_header("Location", self.path if behavior == "loop" else "http://[::1/")
                self.end_headers()
                return
            if behavior == "silent":
                done.wait(timeout=10)
                return
            if behavior == "together":  # answer when four have asked
                meeting.wait(timeout=10)
            body = {"other": ARCHIVE[:-9] + bytes([ARCHIVE[-9] ^ 1]) + ARCHIVE[-8:],
                    "long": ARCHIVE + bytes(2**20)}.get(behavior, ARCHIVE)
            self.send_response(200)
            if behavior != "long":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if behavior in ("cut", "stalled"):
                self.wfile.write(body[:len(body) // 2])
                self.wfile.flush()
                if behavior == "stalled":
                    done.wait(timeout=10)
            else:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # the reader went away, as it should where the answer is too long
                pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        done.set()
        http.shutdown()
        thread.join()


def test_the_official_archives_are_these():
    # The checksums and sizes of the files as they are published.
    assert (CIFAR10.name, CIFAR10.md5) == ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    assert (CIFAR100.name, CIFAR100.md5) == ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
    assert (CIFAR10.size, CIFAR100.size) == (170498071, 169001437)


def test_downloads_unpacks_and_leaves_nothing_else(tmp_path, server, capsys):
    root = tmp_path / "not" / "yet"
    assert_whole(fetch(archive_of(ARCHIVE, f"{server}/whole"), root), root)
    assert os.listdir(root) == [FOLDER]
    assert "small.tar.gz: 0 of 0 MB" in capsys.readouterr().err


@pytest.mark.parametrize("behavior, reason", [
    ("missing", "HTTP Error 404"),
    ("loop", "infinite loop"),
    ("nowhere", "Invalid IPv6 URL"),
    ("silent", "timed out"),
    ("cut", f"ends after {len(ARCHIVE) // 2} of {len(ARCHIVE)} bytes|IncompleteRead"),
    ("stalled", "timed out"),
    ("other", "has the MD5 checksum"),
    ("long", f"more than the {len(ARCHIVE)} bytes expected"),
])
def test_a_failed_download_is_explained_and_can_be_repeated(tmp_path, server, monkeypatch, behavior, reason):
    monkeypatch.setattr("tinyres.datasets.archive.TIMEOUT", 0.5)
    with pytest.raises(RuntimeError) as caught:
        fetch(archive_of(ARCHIVE, f"{server}/{behavior}"), tmp_path)
    message = str(caught.value)
    assert any(part in message for part in reason.split("|")), message
    assert f"{server}/{behavior}/small.tar.gz" in message
    assert f"get small.tar.gz by other means and put it into {tmp_path}" in message
    assert os.listdir(tmp_path) == []
    assert_whole(fetch(archive_of(ARCHIVE, f"{server}/whole"), tmp_path), tmp_path)


def test_four_runs_at_once_end_with_one_whole_folder(tmp_path, server):
    archive = archive_of(ARCHIVE, f"{server}/together")
    with ThreadPoolExecutor(4) as pool:
        for folder in pool.map(lambda _: fetch(archive, tmp_path), range(4)):
            assert_whole(folder, tmp_path)
    assert os.listdir(tmp_path) == [FOLDER]


def test_an_archive_put_there_by_hand_is_used_and_kept(tmp_path):
    (tmp_path / "small.tar.gz").write_bytes(ARCHIVE)
    assert_whole(fetch(archive_of(ARCHIVE), tmp_path), tmp_path)
    assert sorted(os.listdir(tmp_path)) == [FOLDER, "small.tar.gz"]


@pytest.mark.parametrize("content, reason", [(ARCHIVE[:-1], "ends after"),
                                             (ARCHIVE[:-1] + b"x", "MD5 checksum")])
def test_a_wrong_archive_put_there_by_hand_is_refused(tmp_path, content, reason):
    (tmp_path / "small.tar.gz").write_bytes(content)
    with pytest.raises(RuntimeError, match=f"small.tar.gz .*{reason}.*Delete it"):
        fetch(archive_of(ARCHIVE), tmp_path)
    assert os.listdir(tmp_path) == ["small.tar.gz"]


def test_what_a_killed_run_left_is_not_taken_for_whole(tmp_path, server):
    leftover = tmp_path / f".{FOLDER}-abc" / FOLDER
    leftover.mkdir(parents=True)
    (leftover / "train").write_bytes(b"half")
    assert_whole(fetch(archive_of(ARCHIVE, f"{server}/whole"), tmp_path), tmp_path)


TERMINATED = """
import sys
from pathlib import Path
from test_cifar_files import ARCHIVE, archive_of
from tinyres.cli.errors import run_script
from tinyres.datasets.archive import fetch
run_script(lambda: fetch(archive_of(ARCHIVE, sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGTERM that can be caught")
def test_a_script_that_is_terminated_during_a_download_leaves_nothing(tmp_path, server):
    process = subprocess.Popen([sys.executable, "-c", TERMINATED, f"{server}/stalled", str(tmp_path)],
                               cwd=ROOT / "tests", stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".*/small.tar.gz")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "interrupted" in errors
    assert os.listdir(tmp_path) == []


def test_a_folder_in_place_is_used_without_a_look_at_the_network(tmp_path):
    (tmp_path / FOLDER).mkdir()
    assert fetch(archive_of(ARCHIVE), tmp_path) == tmp_path / FOLDER


HOSTILE_ARCHIVES = {
    "above the folder": (members(train=member(f"{FOLDER}/../train", b"x")), f"it lacks {FOLDER}/train"),
    "above root": (members(train=member("../../escaped", b"x")), f"it lacks {FOLDER}/train"),
    "absolute path": (members(train=member("/tmp/escaped", b"x")), f"it lacks {FOLDER}/train"),
    "symbolic link": (members(train=member(f"{FOLDER}/train", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
                      "train is not a regular file"),
    "hard link": (members(train=member(f"{FOLDER}/train", type=tarfile.LNKTYPE, linkname="/etc/passwd")),
                  "train is not a regular file"),
    "device": (members(train=member(f"{FOLDER}/train", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
               "train is not a regular file"),
    "pipe": (members(train=member(f"{FOLDER}/train", type=tarfile.FIFOTYPE)), "train is not a regular file"),
    "a file that ends early": (members(zeros=member("zeros", size=2**40)), "unexpected end of data"),
    "sparse": (members(train=member(f"{FOLDER}/train", type=tarfile.GNUTYPE_SPARSE)),
               "train is not a regular file"),
    "empty": ([], f"it lacks {FOLDER}/meta, {FOLDER}/test, {FOLDER}/train"),
}


@pytest.mark.parametrize("content, reason", HOSTILE_ARCHIVES.values(), ids=HOSTILE_ARCHIVES.keys())
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path, content, reason):
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    archive = packed(content)
    (root / "small.tar.gz").write_bytes(archive)
    with pytest.raises(RuntimeError) as caught:
        fetch(archive_of(archive), root)
    assert reason in str(caught.value)
    assert (root / "small.tar.gz").read_bytes() == archive
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "root", "small.tar.gz"]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE])
def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("tinyres.datasets.archive.UNPACKED_LIMIT", 2**20)
    content = packed([*members(), member("x", bytes(2**21), type=kind)])
    (tmp_path / "small.tar.gz").write_bytes(content)
    with pytest.raises(RuntimeError, match="unpacks to more than 1048576 bytes"):
        fetch(archive_of(content), tmp_path)


def test_files_that_are_not_needed_are_left_out(tmp_path):
    escaping = [member("../escaped", b"x"), member(f"{FOLDER}/readme.html", b"x"),
                member(f"{FOLDER}/link", type=tarfile.SYMTYPE, linkname="/etc")]
    content = packed(members() + escaping)
    root = tmp_path / "root"
    root.mkdir()
    (root / "small.tar.gz").write_bytes(content)
    assert_whole(fetch(archive_of(content), root), root)
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.parametrize("content", [b"", b"no archive", ARCHIVE[:len(ARCHIVE) // 2]])
def test_a_damaged_archive_is_named(tmp_path, content):
    (tmp_path / "small.tar.gz").write_bytes(content)
    with pytest.raises(RuntimeError, match="could not unpack .*small.tar.gz"):
        fetch(archive_of(content), tmp_path)
    assert os.listdir(tmp_path) == ["small.tar.gz"]
