/* Loaded before the C library (LD_PRELOAD): the n-th call that writes below a folder fails, or kills the process.

   It counts nothing until it is armed, so one process may serve many cases: each child arms it after its fork.
   HDF5, NumPy, Python and Rust all come here, whatever they call themselves. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, RENAME = 4, MKDIR = 8, CREATE = 16 };

static char folder[4096];
static int kinds, error, always;
static long at, count;

/* kinds: a sum of the above. n: from 1; 0 counts only. error: an errno, or 0 for SIGKILL. lasting: every later
   call fails too, as on a disk that is full. */
void faults_arm(const char *below, int which, long n, int with, int lasting) {
    snprintf(folder, sizeof folder, "%s", below);
    kinds = which; at = n; error = with; always = lasting;
    __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
}

long faults_count(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int is_below(const char *path) {
    size_t length = strlen(folder);
    char full[8192];
    if (!length || !path) return 0;
    if (path[0] != '/') {
        char here[4096];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(full, sizeof full, "%s/%s", here, path);
        path = full;
    }
    return strncmp(path, folder, length) == 0;
}

static int is_file_below(int fd) {
    char link[64], path[4096];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path);
}

/* Whether this call is to fail; errno is set, or the process is no more. */
static int fails(int kind) {
    if (!(kinds & kind)) return 0;
    long number = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if (!at || (always ? number < at : number != at)) return 0;
    if (!error) { kill(getpid(), SIGKILL); for (;;) pause(); }
    errno = error;
    return 1;
}

#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, data, size);
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t place) {
    NEXT(pwrite); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, data, size, place);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t place) {
    NEXT(pwrite64); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, data, size, place);
}
ssize_t writev(int fd, const struct iovec *data, int many) {
    NEXT(writev); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, data, many);
}
int ftruncate(int fd, off_t size) { NEXT(ftruncate); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, size); }
int ftruncate64(int fd, off64_t size) {
    NEXT(ftruncate64); return is_file_below(fd) && fails(WRITE) ? -1 : next(fd, size);
}
int fsync(int fd) { NEXT(fsync); return is_file_below(fd) && fails(SYNC) ? -1 : next(fd); }
int fdatasync(int fd) { NEXT(fdatasync); return is_file_below(fd) && fails(SYNC) ? -1 : next(fd); }
int rename(const char *old, const char *new) { NEXT(rename); return is_below(new) && fails(RENAME) ? -1 : next(old, new); }
int renameat(int a, const char *old, int b, const char *new) {
    NEXT(renameat); return is_below(new) && fails(RENAME) ? -1 : next(a, old, b, new);
}
int mkdir(const char *path, mode_t mode) {  /* of a folder that is there, as "exist_ok" asks for, it makes nothing */
    NEXT(mkdir); return is_below(path) && access(path, F_OK) && fails(MKDIR) ? -1 : next(path, mode);
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        NEXT(name); mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        return (flags & O_CREAT) && is_below(path) && fails(CREATE) ? -1 : next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
