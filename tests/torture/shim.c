/* Preloaded into a merge: counts what it asks of the system for files of one folder, and fails the call that it is told
 * to, or ends the process there.
 *
 *   TORTURE_UNDER  the folder
 *   TORTURE_LOG    a file that gets a line per call: name, path, and a second path or "-"
 *   TORTURE_FAULT  NAME:N:WHAT: at the N-th call of that name (any: of all calls), WHAT is an errno, "short" (half of
 *                  what a read or write was asked for) or "kill"
 *   TORTURE_ALWAYS set: at every later call of that name too, as a full disk does
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MOST_FILES = 4096, SHORT = -1, KILL = -2, NONE = 0 };

static char under[PATH_MAX], wanted[32];
static long at;
static int what, always, log_fd = -1;
static _Atomic long calls;
static char* names[MOST_FILES]; /* of open files of the folder */

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static ssize_t (*real_write)(int, const void*, size_t);
static int (*real_open)(const char*, int, ...);

__attribute__((constructor)) static void begin(void) {
  real_write = REAL(write);
  real_open = REAL(open);
  const char* folder = getenv("TORTURE_UNDER");
  if (folder) snprintf(under, sizeof under, "%s", folder);
  const char* log = getenv("TORTURE_LOG");
  if (log) log_fd = real_open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const char* fault = getenv("TORTURE_FAULT");
  char kind[16] = "";
  if (fault && sscanf(fault, "%31[^:]:%ld:%15s", wanted, &at, kind) == 3)
    what = !strcmp(kind, "short") ? SHORT : !strcmp(kind, "kill") ? KILL : atoi(kind);
  always = getenv("TORTURE_ALWAYS") != NULL;
}

static int is_under(const char* path) { return under[0] && path && strncmp(path, under, strlen(under)) == 0; }

static const char* name_of(int fd) { return fd >= 0 && fd < MOST_FILES ? names[fd] : NULL; }

static void opened(int fd, const char* path) {
  if (fd < 0 || fd >= MOST_FILES) return;
  free(names[fd]);
  names[fd] = is_under(path) ? strdup(path) : NULL;
}

/* Notes a call; returns what is to be done with it. */
static int noted(const char* call, const char* path, const char* other) {
  if (!is_under(path)) return NONE;
  if (log_fd >= 0) {
    char line[2 * PATH_MAX + 64];
    const int n = snprintf(line, sizeof line, "%s %s %s\n", call, path, other ? other : "-");
    if (real_write(log_fd, line, (size_t)n) != n) abort();
  }
  if (!what || (strcmp(wanted, "any") && strcmp(wanted, call))) return NONE;
  const long number = atomic_fetch_add(&calls, 1) + 1;
  if (number != at && !(always && number > at)) return NONE;
  if (what == KILL) kill(getpid(), SIGKILL);
  return what;
}

#define FAIL_IF(fault) \
  if ((fault) > 0) {   \
    errno = (fault);   \
    return -1;         \
  }

#define OPENS(name)                                                               \
  int name(const char* path, int flags, ...) {                                    \
    va_list rest;                                                                 \
    va_start(rest, flags);                                                        \
    const mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
    va_end(rest);                                                                 \
    const int fault = noted("open", path, NULL);                                  \
    FAIL_IF(fault)                                                                \
    const int fd = REAL(name)(path, flags, mode);                                 \
    opened(fd, path);                                                             \
    return fd;                                                                    \
  }
OPENS(open)
OPENS(open64)

#define MOVES(result, name, call, given, declared)    \
  result name declared {                              \
    const int fault = noted(call, name_of(fd), NULL); \
    FAIL_IF(fault)                                    \
    if (fault == SHORT && size > 1) size = size / 2;  \
    return REAL(name) given;                          \
  }
MOVES(ssize_t, read, "read", (fd, data, size), (int fd, void* data, size_t size))
MOVES(ssize_t, write, "write", (fd, data, size), (int fd, const void* data, size_t size))
MOVES(ssize_t, pread, "pread", (fd, data, size, from), (int fd, void* data, size_t size, off_t from))
MOVES(ssize_t, pread64, "pread", (fd, data, size, from), (int fd, void* data, size_t size, off64_t from))
MOVES(ssize_t, pwrite, "pwrite", (fd, data, size, to), (int fd, const void* data, size_t size, off_t to))
MOVES(ssize_t, pwrite64, "pwrite", (fd, data, size, to), (int fd, const void* data, size_t size, off64_t to))

static ssize_t vector_read(__typeof__(&preadv) real, int fd, const struct iovec* parts, int count, off_t from) {
  const int fault = noted("pread", name_of(fd), NULL);
  FAIL_IF(fault)
  if (fault == SHORT && count == 1 && parts->iov_len > 1) {
    const struct iovec half = {parts->iov_base, parts->iov_len / 2};
    return real(fd, &half, 1, from);
  }
  return real(fd, parts, count, from);
}
ssize_t preadv(int fd, const struct iovec* parts, int count, off_t from) {
  return vector_read(REAL(preadv), fd, parts, count, from);
}
ssize_t preadv64(int fd, const struct iovec* parts, int count, off64_t from) {
  return vector_read((__typeof__(&preadv))REAL(preadv64), fd, parts, count, from);
}

#define ON_FILE(name, call, given, declared)          \
  int name declared {                                 \
    const int fault = noted(call, name_of(fd), NULL); \
    FAIL_IF(fault)                                    \
    return REAL(name) given;                          \
  }
ON_FILE(fsync, "fsync", (fd), (int fd))
ON_FILE(ftruncate, "ftruncate", (fd, size), (int fd, off_t size))
ON_FILE(ftruncate64, "ftruncate", (fd, size), (int fd, off64_t size))
ON_FILE(flock, "flock", (fd, operation), (int fd, int operation))

/* These return the error instead of setting it. */
int posix_fallocate(int fd, off_t from, off_t size) {
  const int fault = noted("fallocate", name_of(fd), NULL);
  return fault > 0 ? fault : REAL(posix_fallocate)(fd, from, size);
}
int posix_fallocate64(int fd, off64_t from, off64_t size) {
  const int fault = noted("fallocate", name_of(fd), NULL);
  return fault > 0 ? fault : REAL(posix_fallocate64)(fd, from, size);
}

#define ON_PATH(name, call, given, declared, second) \
  int name declared {                                \
    const int fault = noted(call, path, second);     \
    FAIL_IF(fault)                                   \
    return REAL(name) given;                         \
  }
ON_PATH(rename, "rename", (path, to), (const char* path, const char* to), to)
ON_PATH(unlink, "unlink", (path), (const char* path), NULL)
ON_PATH(mkdir, "mkdir", (path, mode), (const char* path, mode_t mode), NULL)

int close(int fd) {
  if (fd >= 0 && fd < MOST_FILES && names[fd]) {
    free(names[fd]);
    names[fd] = NULL;
  }
  return REAL(close)(fd);
}
