"""Files made to take all time or memory, or to start programs: `python -m support.hostile FOLDER`, in tests/,
reads each in seconds and little memory and prints, as JSON, what its reader said."""
from __future__ import annotations

import io
import json
import os
import pickle
import resource
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
from PIL import Image
from test_cifar_files import PIXELS

import tinyres as tr
from tinyres.datasets.cifar import _read_batch
from tinyres.datasets.decoding import MIN_AREA
from tinyres.datasets.image_folder import FolderSplit
from tinyres.datasets.picture_files import files_by_list
from tinyres.training import load_checkpoint, save_checkpoint

SECONDS, MEGABYTES = 3, 200  # that reading a file may take, besides what the process has
TEXT = "é".encode() * 1_000_000

PICKLES = {
    # C code would hash, compare or free these by calling itself at each level.
    "a tuple 150,000 deep as a key": b"\x80\x02})" + b"\x85" * 150_000 + b"Ns.",
    "a list 70,000 deep": b"\x80\x02" + b"]" * 70_000 + b"a" * 69_999 + b".",
    "a dictionary 40,000 deep": b"\x80\x02" + b"}U\x01k" * 40_000 + b"N" + b"s" * 40_000 + b".",
    # 2 ** 45 hashes in a few hundred bytes; the second does without an instruction that is refused anyway.
    "hashes of a web": b"\x80\x02)q\x000" + b"".join(b"h%ch%c\x86q%c0" % (k, k, k + 1) for k in range(45))
                       + b"}h\x2dNs.",
    "hashes of a web on the stack": b"\x80\x02)q\x00" + b"".join(b"h%ch%c\x86q%c" % (k, k, k + 1)
                                                                for k in range(45)) + b"}h\x2dNs.",
    "a text encoded 800 times": b"\x80\x02]q\x00(X" + struct.pack("<i", len(TEXT)) + TEXT
                                + b"q\x01X\x06\x00\x00\x00latin1q\x02c_codecs\nencode\nq\x03"
                                + b"h\x03h\x01h\x02\x86R" * 800 + b"e.",
    "a long tuple in many": b"\x80\x02(" + b"N" * 80_000 + b"tq\x00" + b"h\x00\x85" * 39_000 + b".",
    "a long key many times": b"\x80\x02}(B" + struct.pack("<i", len(TEXT)) + TEXT + b"q\x00N"
                             + b"h\x00N" * 70_000 + b"u.",
    "a label of 40,000 bits": pickle.dumps({"data": PIXELS, "labels": [1, 2, 3, 1 << 40_000]}, 4),
    "a label of 100 bits": pickle.dumps({"data": PIXELS, "labels": [1, 2, 3, 1 << 100]}, 4),
}


def many_members() -> bytes:
    """An npz whose names are 300,000 times that of one empty member."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as file:
        file.writestr("a.npy", b"")
    whole, count = buffer.getvalue(), 300_000
    start, end = whole.find(b"PK\1\2"), whole.rfind(b"PK\5\6")
    names = whole[start:end] * count
    return b"".join([whole[:start], names,
                     struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(names), start),
                     struct.pack("<4sLQL", b"PK\6\7", 0, start + len(names), 1),
                     struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)])


def wide_network(path: Path) -> None:
    """A checkpoint whose settings describe 46 million weights in one array."""
    network = tr.models.cifar_net(10, 1, (4,))
    save_checkpoint(path, network, tr.optim.SGD(network.parameters(), 0.1), 1,
                    {"blocks": 1, "widths": [85, 60_000], "plain": False})


def large_png(side: int) -> bytes:
    """A black square of one bit a pixel."""
    chunks = [(b"IHDR", struct.pack(">2L5B", side, side, 1, 0, 0, 0, 0)),
              (b"IDAT", zlib.compress(bytes((1 + -(-side // 8)) * side), 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">L", len(content)) + name + content + struct.pack(
        ">L", zlib.crc32(name + content)) for name, content in chunks)


def progressive_jpeg() -> bytes:
    """Twelve million pixels, all of whose coefficients must be in memory to decode one."""
    Image.new("RGB", (4000, 3000)).save(buffer := io.BytesIO(), "JPEG", progressive=True, subsampling=0)
    return buffer.getvalue()


def as_data(path: Path) -> object:
    """What a picture is in a data set: an error, or broken."""
    split = FolderSplit(path.parent, [path.name] * 2, [0, 0], 2, MIN_AREA)
    return split.evaluation_batch(numpy.arange(2))[0].shape


def as_file(path: Path) -> object:
    return tr.datasets.read_square(path, 8).shape


def as_list(path: Path) -> object:
    return files_by_list(path.parent, ["cat", "dog"])


def as_batch(path: Path) -> object:
    return _read_batch(path, "labels", 10_000, classes=10)


def cases(folder: Path) -> dict[str, tuple[Callable[[Path], object], Path, int]]:
    """Readers, files, and megabytes that may be taken."""
    def file(name: str, content: bytes | Callable[[Path], None] | None) -> Path:
        path = folder / str(len(list(folder.iterdir()))) / name
        path.parent.mkdir()
        if content is None:
            os.mkfifo(path)
        elif callable(content):
            content(path)
        else:
            path.write_bytes(content)
        return path

    found = {name: (as_batch, file("data_batch_1", content), MEGABYTES) for name, content in PICKLES.items()}
    jpeg, png = progressive_jpeg(), large_png(7000)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    return {  # first those that need more memory than they get: what others leave free would do
        "data and too little memory for a PNG": (as_data, file("f.png", png), 100),
        "a picture and too little memory for it": (as_file, file("f.png", png), 100),
        "data and too little memory for a JPEG": (as_data, file("f.jpg", jpeg), 10),
        **found,
        "300,000 members": (load_checkpoint, file("c.npz", many_members()), MEGABYTES),
        "a wide network": (tr.models.pretrained, file("c.npz", wide_network), 100),
        "a list of labels that is a pipe": (as_list, file("labels.txt", None), MEGABYTES),
        "a list of labels that is no text": (as_list, file("labels.txt", b"\xff\xfe\x00\xd8\x00"), MEGABYTES),
        "a picture that is a pipe": (as_file, file("f.jpg", None), MEGABYTES),
        "a picture in PostScript": (as_file, file("f.jpg", postscript), MEGABYTES),
        "data in PostScript": (as_data, file("f.jpg", postscript), MEGABYTES),
        "177 million pixels": (as_file, file("f.png", large_png(13_300)), MEGABYTES),
        "data of 49 million pixels each": (as_data, file("f.png", png), 350),  # one at a time
    }


def main(folder: Path) -> None:
    (folder / "programs").mkdir()
    (folder / "files").mkdir()
    for name in "gs", "gswin32c", "gswin64c":  # Ghostscript, as Pillow would find it
        program = folder / "programs" / name
        program.write_text(f"#!/bin/sh\ntouch {folder}/started\n")
        program.chmod(0o755)
    os.environ["PATH"] = f"{folder / 'programs'}:{os.environ['PATH']}"
    tried = cases(folder / "files")
    as_data(tried["data in PostScript"][1])  # its threads are there
    assert not (folder / "started").exists(), "a file led to Ghostscript"
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it is
    said = {}
    for name, (read, path, megabytes) in tried.items():
        print(name, file=sys.stderr, flush=True)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
        signal.alarm(SECONDS * 5), signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            said[name] = ["read", str(read(path)), str(path)]
        except Exception as error:
            said[name] = [type(error).__name__, str(error), str(path)]
        signal.alarm(0), signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
