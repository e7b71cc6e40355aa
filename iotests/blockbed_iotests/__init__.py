"""A harness for tests of a QMP block layer.

It starts a server (Blockbed, or the real QEMU), speaks QMP and NBD to it, makes and judges disk images, and keeps
a model of what a disk must hold at any instant. Nothing in it knows which of the servers it drives: a test written
with it runs unchanged against each.

    from blockbed_iotests import Image, Server, find_program

    with Server(find_program("blockbed"), "system") as server:
        disk = Image.create(server.dir / "disk.qcow2", "qcow2", "64M")
        server.blockdev_add(driver="qcow2", node_name="disk", file={"driver": "file", "filename": str(disk.path)})
        server.nbd_start()
        with server.export("disk", writable=True) as nbd:
            nbd.pwrite(b"x" * 512, 0)
"""

from .differential import Differential, normalise
from .history import History, Recorder
from .image import BITMAP_STORES, Image, qemu_img, qemu_io
from .increments import check_increments, find_faults
from .nbd import Nbd, RawNbd
from .qmp import Disconnected, Qmp, QmpError
from .server import Program, Server, ServerDied, find_program

__all__ = [
    "BITMAP_STORES",
    "Differential",
    "Disconnected",
    "History",
    "Image",
    "Nbd",
    "Program",
    "Qmp",
    "QmpError",
    "RawNbd",
    "Recorder",
    "Server",
    "ServerDied",
    "check_increments",
    "find_faults",
    "find_program",
    "normalise",
    "qemu_img",
    "qemu_io",
]
