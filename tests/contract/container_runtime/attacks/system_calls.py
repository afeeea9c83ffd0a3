"""Ask the kernel for what a container has no business with, and tell what it said.

Numbers are those of x86-64 and, where two are given, of AArch64.
"""

import ctypes
import errno
import json
import mmap
import os
import platform
import socket
import sys
from collections.abc import Callable

IS_X86 = platform.machine() == "x86_64"
NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
CLONE = 56 if IS_X86 else 220
NEW_NAMESPACES = {
    "cgroup": 0x02000000,
    "ipc": 0x08000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "pid": 0x20000000,
    "user": 0x10000000,
    "uts": 0x04000000,
}
MAP_HUGETLB = 0x40000
MFD_HUGETLB = 4
SHM_HUGETLB = 0o4000
SHMGET = 29 if IS_X86 else 194
X32_GETPID = 0x40000000 + 39
I386_GETPID = bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3])  # mov eax, 20; int 0x80; ret

libc = ctypes.CDLL(None, use_errno=True)


def answer(number: int, *arguments: int) -> str:
    """Make a system call; return `done` or its error."""
    ctypes.set_errno(0)
    values = [ctypes.c_ulong(argument) for argument in (*arguments, *(0,) * (6 - len(arguments)))]
    returned = libc.syscall(ctypes.c_long(number), *values)
    if number == CLONE and returned == 0:
        os._exit(0)
    return "done" if returned != -1 else errno.errorcode[ctypes.get_errno()]


def sockets() -> list[tuple[int, int, int]]:
    """Return the sockets that can be had: family, type, protocol."""
    found = []
    for family in range(46):
        for kind in (*range(1, 7), 10):
            for protocol in (0, 1, 2, 6, 17, 33, 132, 136, 255, 262):
                try:
                    socket.socket(family, kind, protocol).close()
                except OSError as error:
                    if error.errno == errno.EPERM:
                        continue
                found.append((family, kind, protocol))
    return found


def signal_that_ended(act: Callable[[], object]) -> int:
    """Run something in a process of its own; return the signal that ended it, or 0."""
    if (pid := os.fork()) == 0:
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) * -1


def call_as_i386() -> None:
    """Enter the kernel by the door for 32-bit programs."""
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(I386_GETPID)
    function: Callable[[int], Callable[[], int]] = ctypes.CFUNCTYPE(ctypes.c_int)
    function(ctypes.addressof(ctypes.c_char.from_buffer(code)))()


def huge_pages() -> dict[str, str]:
    """Ask for memory that the memory limit does not count."""
    acts: dict[str, Callable[[], object]] = {
        "mmap": lambda: mmap.mmap(
            -1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
        ),
        "memfd_create": lambda: os.memfd_create("huge", MFD_HUGETLB),
    }
    # Of no size, which a kernel that is asked refuses as such: this account may have none anyway.
    answers = {"shmget": answer(SHMGET, 0, 0, SHM_HUGETLB | 0o600)}
    for name, act in acts.items():
        try:
            act()
            answers[name] = "done"
        except OSError as error:
            answers[name] = errno.errorcode[error.errno or 0]
    return answers


sys.stdout.write(
    json.dumps(
        {
            "calls": {name: answer(pair[0 if IS_X86 else 1]) for name, pair in NUMBERS.items()},
            "clones": {name: answer(CLONE, flag | 17) for name, flag in NEW_NAMESPACES.items()},
            "personality": answer(135 if IS_X86 else 92, 0x0040000),  # no address randomisation
            "huge_pages": huge_pages(),
            "sockets": sockets(),
            "other_machines": [
                signal_that_ended(call_as_i386),
                signal_that_ended(lambda: libc.syscall(ctypes.c_long(X32_GETPID))),
            ]
            if IS_X86
            else [],
        }
    )
)
