"""On which file system a path lies, and whether other machines may have it as well. Knows no study."""

import os
from pathlib import Path

#: types, as the kernel names them, whose files another machine may have open at the same time; docs/design.md
#: has this list
NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "cvfs", "dvs", "gfs2", "glusterfs", "gpfs", "kafs",
    "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "quobyte", "smb3",
    "smbfs", "vboxsf", "virtiofs", "wekafs",
})  # fmt: skip
#: what runs over FUSE is taken for one of them (sshfs, glusterfs, s3fs, ..), but for these
_LOCAL_FUSE = frozenset({
    "fuse.bindfs", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.mergerfs", "fuse.ntfs", "fuse.ntfs-3g",
    "fuse.unionfs",
})  # fmt: skip
#: what is gone when the machine is switched off
MEMORY_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})


def is_network(kind: str) -> bool:
    """Return whether files on a file system of this type may be open on several machines."""
    return kind in NETWORK_FILE_SYSTEMS or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)


def file_system(path: Path) -> str:
    """Return the type of the file system of `path`, or of what is there of it: `nfs4`; else `unknown`."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    device = there.stat().st_dev
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    return kind_of(f"{os.major(device)}:{os.minor(device)}", mounts)


def kind_of(device: str, mounts: str) -> str:
    """Return the type of the file system with this `MAJOR:MINOR`, by lines of a mountinfo; else `unknown`.

    The form of a line is that of proc_pid_mountinfo(5): `36 35 98:0 /root /mnt rw master:1 - ext3 /dev/sda
    rw`.
    """
    found = "unknown"
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if len(fields) > 2 and fields[2] == device and right:
            found = right.split()[0]
    return found
