"""The system calls a confined program may make: a seccomp filter put together here, without a compiler or libseccomp.

Everything is refused that is not listed, so a call the kernel learns tomorrow is refused too. For some, one argument must
be right. A filter is an array of ``struct sock_filter`` (16-bit code, two 8-bit jumps, 32-bit constant), the form that
``bwrap --seccomp FD`` and ``prctl(PR_SET_SECCOMP)`` take. Source: linux/seccomp.h, linux/filter.h, asm/unistd.h.
"""

import errno
import struct

# name, number on x86-64, number on aarch64 and riscv64 (asm-generic); "-": not there
TABLE = """
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; pwrite64 18 68; preadv 295 69; pwritev 296 70;
preadv2 327 286; pwritev2 328 287; lseek 8 62; close 3 57; close_range 436 436; open 2 -; openat 257 56; stat 4 -;
fstat 5 80; lstat 6 -; newfstatat 262 79; statx 332 291; access 21 -; faccessat 269 48; faccessat2 439 439; readlink 89 -;
readlinkat 267 78; getdents 78 -; getdents64 217 61; getcwd 79 17; chdir 80 49; fchdir 81 50; mkdir 83 -; mkdirat 258 34;
rmdir 84 -; unlink 87 -; unlinkat 263 35; rename 82 -; renameat 264 38; renameat2 316 276; link 86 -; linkat 265 37;
symlink 88 -; symlinkat 266 36; chmod 90 -; fchmod 91 52; fchmodat 268 53; truncate 76 45; ftruncate 77 46;
fallocate 285 47; utimensat 280 88; utime 132 -; utimes 235 -; fsync 74 82; fdatasync 75 83; dup 32 23; dup2 33 -;
dup3 292 24; pipe 22 -; pipe2 293 59; fcntl 72 25; flock 73 32; statfs 137 43; fstatfs 138 44; getxattr 191 8;
lgetxattr 192 9; fgetxattr 193 10; listxattr 194 11; llistxattr 195 12; flistxattr 196 13; sendfile 40 71;
copy_file_range 326 285; fadvise64 221 223; umask 95 166; poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72;
epoll_create 213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_wait 232 -; epoll_pwait 281 22; eventfd2 290 19;
timerfd_create 283 85; timerfd_settime 286 86; timerfd_gettime 287 87; mmap 9 222; munmap 11 215; mprotect 10 226;
mremap 25 216; madvise 28 233; brk 12 214; msync 26 227; mincore 27 232; membarrier 324 283; rt_sigaction 13 134;
rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136; rt_sigsuspend 130 133; rt_sigtimedwait 128 137;
sigaltstack 131 132; kill 62 129; tkill 200 130; tgkill 234 131; restart_syscall 219 128; pause 34 -; futex 202 98;
set_robust_list 273 99; get_robust_list 274 100; rseq 334 293; set_tid_address 218 96; arch_prctl 158 -; gettid 186 178;
getpid 39 172; getppid 110 173; getuid 102 174; geteuid 107 175; getgid 104 176; getegid 108 177; getgroups 115 158;
getresuid 118 148; getresgid 120 150; getpgrp 111 -; getpgid 121 155; getsid 124 156; uname 63 160; sysinfo 99 179;
times 100 153; getrusage 98 165; getcpu 309 168; clock_gettime 228 113; clock_getres 229 114; clock_nanosleep 230 115;
nanosleep 35 101; gettimeofday 96 169; time 201 -; getitimer 36 102; setitimer 38 103; alarm 37 -; sched_yield 24 124;
sched_getaffinity 204 123; sched_getparam 143 121; sched_getscheduler 145 120; sched_get_priority_max 146 125;
sched_get_priority_min 147 126; getpriority 140 141; prlimit64 302 261; getrlimit 97 163; setrlimit 160 164;
getrandom 318 278; exit 60 93; exit_group 231 94; wait4 61 260; waitid 247 95; execve 59 221; sendto 44 206;
recvfrom 45 207; sendmsg 46 211; recvmsg 47 212; shutdown 48 210; getsockname 51 204; getpeername 52 205; setsockopt 54 208;
getsockopt 55 209; socketpair 53 199; clone 56 220; clone3 435 435; ioctl 16 29; prctl 157 167
"""

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1), "riscv64": (0xC00000F3, 1)}  # AUDIT_ARCH_*, column of TABLE
NEWEST = 451  # numbers from here on are answered "not implemented", so that libraries take their older way

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCH, ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; argument i at 16 + 8 i, low word first

CLONE_THREAD = 0x00010000
CLONE_NAMESPACES = 0x7E020080  # any CLONE_NEW*
TERMINAL_QUESTIONS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIO(N)CLEX
NAMING = (15, 16)  # PR_SET_NAME, PR_GET_NAME
AF_UNIX = (1,)
SIGNALS = ("kill", "tkill", "tgkill")
METADATA = ("chmod", "fchmod", "fchmodat", "utime", "utimes", "utimensat", "truncate")  # what Landlock leaves open


def numbers(machine: str) -> dict[str, int]:
    """The listed calls of a machine. KeyError for one that is not in MACHINES."""
    column = MACHINES[machine][1]
    rows = (entry.split() for entry in " ".join(TABLE.split()).split(";"))
    return {name: int(row[column]) for name, *row in rows if row[column] != "-"}


def build(machine: str, *, alone: bool) -> bytes:
    """The filter.

    Args:
        machine: as ``os.uname().machine`` says it.
        alone: the program has a process namespace of its own and is started under the filter: it may execute (there is only
            Python to execute), send signals (there is only itself to hit) and change what belongs to files (all are its own).
    """
    known = numbers(machine)
    refused = REFUSE | errno.EPERM
    checked = {"clone", "clone3", "ioctl", "prctl", "socketpair", "prlimit64"}
    if not alone:
        checked |= {"execve", *SIGNALS, *METADATA}
    code = [_do(LOAD, ARCH), _jump(EQUAL, MACHINES[machine][0], 1, 0), _do(RETURN, KILL), _do(LOAD, NUMBER)]
    if machine == "x86_64":
        code += [_jump(AT_LEAST, 0x40000000, 0, 1), _do(RETURN, KILL)]  # the x32 calls
    for name, number in known.items():
        if name not in checked:
            code += [_jump(EQUAL, number, 0, 1), _do(RETURN, ALLOW)]
    code += [_jump(EQUAL, known["clone3"], 0, 1), _do(RETURN, REFUSE | errno.ENOSYS)]  # its flags cannot be read; clone follows
    code += [_jump(AT_LEAST, NEWEST, 0, 1), _do(RETURN, REFUSE | errno.ENOSYS)]
    code += _one_of(known["ioctl"], 1, TERMINAL_QUESTIONS, errno.ENOTTY)
    code += _one_of(known["prctl"], 0, NAMING, errno.EPERM)
    code += _one_of(known["socketpair"], 0, AF_UNIX, errno.EPERM)
    code += _one_of(known["prlimit64"], 0, (0,), errno.EPERM)
    code += [  # threads, but no processes and no namespaces
        _jump(EQUAL, known["clone"], 0, 4),
        _do(LOAD, ARGUMENT),
        _jump(ANY_BIT, CLONE_NAMESPACES, 2, 0),
        _jump(ANY_BIT, CLONE_THREAD, 0, 1),
        _do(RETURN, ALLOW),
    ]
    return b"".join([*code, _do(RETURN, refused)])


def _one_of(number: int, argument: int, values: tuple[int, ...], error: int) -> list[bytes]:
    """Allow a call whose argument is one of the values, answer ``error`` to others."""
    body = [_do(LOAD, ARGUMENT + 8 * argument)]
    for value in values:
        body += [_jump(EQUAL, value, 0, 1), _do(RETURN, ALLOW)]
    body += [_do(RETURN, REFUSE | error)]
    return [_jump(EQUAL, number, 0, len(body)), *body]


def _do(code: int, constant: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, constant)


def _jump(code: int, constant: int, yes: int, no: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, constant)
