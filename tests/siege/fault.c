/* Loaded into a training process (LD_PRELOAD): makes one system call on a run folder go wrong.

   fault_arm says which: the `at`-th call of a kind on a path that contains `root`, and what happens
   there: the call fails with an error, a write is short, or the process dies. A process that dies
   as in a power cut also loses what it wrote to files and had not fsynced. Calls are numbered from 1
   over all threads. Not for production: tests only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { FAIL, SHORT, KILL, TORN, POWER };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX], kind[32];
static long at = LONG_MAX, count, calls;
static int error, how, log_fd = -1;

/* Files with bytes that no fsync has covered, each with the size up to which it is on the disk. */
static struct {
    dev_t device;
    ino_t inode;
    int fd;
    off_t synced;
} dirty[256];
static int dirty_files;

/* only: a kind such as "write", or "" for every kind. from, number: which calls. number: how many. */
void fault_arm(const char *folder, const char *only, long from, long number, int errno_, int what, int log) {
    snprintf(root, sizeof root, "%s", folder);
    snprintf(kind, sizeof kind, "%s", only);
    at = from, count = number, error = errno_, how = what, log_fd = log, calls = 0;
}

long fault_calls(void) { return calls; }

static void die(void) {
    root[0] = 0; /* what follows is ours */
    if (how == POWER)
        for (int i = 0; i < dirty_files; i++)
            if (ftruncate(dirty[i].fd, dirty[i].synced)) {
            }
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Whether the call goes wrong; 1: the caller returns an error, 2: it writes less. */
static int meets(const char *name, const char *path) {
    if (!root[0] || !path || !strstr(path, root) || (kind[0] && strcmp(kind, name))) return 0;
    pthread_mutex_lock(&lock);
    long number = ++calls;
    pthread_mutex_unlock(&lock);
    if (log_fd >= 0) dprintf(log_fd, "%s %s\n", name, path);
    if (number < at || number - at >= count) return 0;
    int writes = !strcmp(name, "write");
    if (how == KILL || how == POWER || (how == TORN && !writes)) die();
    if ((how == SHORT || how == TORN) && writes) return 2;
    if (how == SHORT) return 0;
    errno = error;
    return 1;
}

static const char *path_of(int fd, char *buffer) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, buffer, PATH_MAX - 1);
    if (size < 0) return NULL;
    buffer[size] = 0;
    return buffer;
}

/* The path of `name` in the open folder `fd`, as openat and its siblings mean it. */
static const char *path_at(int fd, const char *name, char *buffer) {
    if (fd == AT_FDCWD || !name || name[0] == '/') return name;
    if (!path_of(fd, buffer)) return name;
    size_t size = strlen(buffer);
    snprintf(buffer + size, PATH_MAX - size, "/%s", name);
    return buffer;
}

static void note_write(int fd, const char *path) {
    struct stat about;
    if (how != POWER || !root[0] || !path || !strstr(path, root) || fstat(fd, &about)) return;
    pthread_mutex_lock(&lock);
    int i = 0;
    while (i < dirty_files && (dirty[i].device != about.st_dev || dirty[i].inode != about.st_ino)) i++;
    if (i == dirty_files && i < 256) {
        dirty[i].device = about.st_dev, dirty[i].inode = about.st_ino;
        dirty[i].fd = fcntl(fd, F_DUPFD_CLOEXEC, 500), dirty[i].synced = about.st_size;
        dirty_files++;
    }
    pthread_mutex_unlock(&lock);
}

static void note_sync(int fd) {
    struct stat about;
    if (how != POWER || fstat(fd, &about)) return;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < dirty_files; i++)
        if (dirty[i].device == about.st_dev && dirty[i].inode == about.st_ino) {
            close(dirty[i].fd);
            dirty[i] = dirty[--dirty_files];
            break;
        }
    pthread_mutex_unlock(&lock);
}

#define REAL(type, name, ...)                                                                                          \
    static type (*real)(__VA_ARGS__);                                                                                  \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *bytes, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    char buffer[PATH_MAX];
    if (fd <= 2 || !root[0] || fd == log_fd) return real(fd, bytes, size);
    const char *path = path_of(fd, buffer);
    int what = meets("write", path);
    if (what == 1) return -1;
    note_write(fd, path);
    if (what == 2) {
        ssize_t written = real(fd, bytes, size / 2);
        if (how == TORN) die();
        return written;
    }
    return real(fd, bytes, size);
}

int fsync(int fd) {
    REAL(int, "fsync", int);
    char buffer[PATH_MAX];
    if (root[0] && meets("fsync", path_of(fd, buffer))) return -1;
    note_sync(fd);
    return real(fd);
}

#define OPENS(name)                                                                                                    \
    int name(const char *path, int flags, ...) {                                                                       \
        REAL(int, #name, const char *, int, ...);                                                                      \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        int writes = (flags & O_ACCMODE) != O_RDONLY;                                                                  \
        if (meets(writes ? "open" : "read", path)) return -1;                                                          \
        return real(path, flags, mode);                                                                                \
    }
OPENS(open)
OPENS(open64)

#define OPENS_AT(name)                                                                                                 \
    int name(int folder, const char *path, int flags, ...) {                                                           \
        REAL(int, #name, int, const char *, int, ...);                                                                 \
        va_list rest;                                                                                                  \
        va_start(rest, flags);                                                                                         \
        mode_t mode = va_arg(rest, mode_t);                                                                            \
        va_end(rest);                                                                                                  \
        char buffer[PATH_MAX];                                                                                         \
        int writes = (flags & O_ACCMODE) != O_RDONLY;                                                                  \
        if (root[0] && meets(writes ? "open" : "read", path_at(folder, path, buffer))) return -1;                      \
        return real(folder, path, flags, mode);                                                                        \
    }
OPENS_AT(openat)
OPENS_AT(openat64)

int rename(const char *old, const char *new) {
    REAL(int, "rename", const char *, const char *);
    return meets("rename", new) ? -1 : real(old, new);
}

int renameat(int from, const char *old, int to, const char *new) {
    REAL(int, "renameat", int, const char *, int, const char *);
    char buffer[PATH_MAX];
    return meets("rename", path_at(to, new, buffer)) ? -1 : real(from, old, to, new);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    return meets("mkdir", path) ? -1 : real(path, mode);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    return meets("unlink", path) ? -1 : real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    char buffer[PATH_MAX];
    return meets("unlink", path_at(folder, path, buffer)) ? -1 : real(folder, path, flags);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    return meets("unlink", path) ? -1 : real(path);
}

int symlink(const char *target, const char *path) {
    REAL(int, "symlink", const char *, const char *);
    return meets("symlink", path) ? -1 : real(target, path);
}

#define TRUNCATES(name)                                                                                                \
    int name(int fd, off_t size) {                                                                                     \
        REAL(int, #name, int, off_t);                                                                                  \
        char buffer[PATH_MAX];                                                                                         \
        if (root[0] && meets("truncate", path_of(fd, buffer))) return -1;                                              \
        return real(fd, size);                                                                                         \
    }
TRUNCATES(ftruncate)
TRUNCATES(ftruncate64)
