/* Sudden death and faults of the disk, for a program that knows nothing of them.
 *
 * Loaded with LD_PRELOAD. It stands between the program and the calls that make files durable, for the files of one folder
 * (BEACON_FAULT_FOLDER). What it shall do is in a file (BEACON_FAULT_PLAN) that is mapped into memory, so that the test
 * changes it while the program runs, and reads what has happened even after a SIGKILL.
 *
 * What was written since the last sync is remembered with what was there before. So a death can take with it what a power
 * failure would take: bytes that no sync has confirmed.
 *
 * System calls are made directly: nothing here calls back into what it replaces.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/* The order and the numbers are those of fault.rs. */
enum kind {
  NOTHING = 0,
  DIE_AND_LOSE = 1,   /* before sync number `at`; nothing that was written since the last one survives */
  DIE_AND_TEAR = 2,   /* before sync number `at`; every other write survives */
  DIE_AFTER = 3,      /* after sync number `at` */
  WRITES_FULL = 4,    /* from write number `at` on: ENOSPC */
  WRITES_FAIL = 5,    /* from write number `at` on: EIO */
  SYNCS_FAIL_LOSE = 6, /* from sync number `at` on: EIO, and what was written is gone */
  SYNCS_FAIL_KEEP = 7 /* from sync number `at` on: EIO, and what was written is there */
};

struct plan {
  volatile uint64_t kind, at;
  volatile uint64_t syncs, writes; /* made so far, over all lives of the program */
  volatile uint64_t fired;         /* how often the plan has struck */
  volatile uint64_t found;         /* 0 before `words` were written; then 1, and one more with each sync */
  volatile char words[64];         /* where there are any, `at` counts the syncs after they were written */
};

struct written {
  struct written *before;
  char *path;
  off_t offset, file_size; /* the file's size before */
  size_t length;           /* of `old`: what was there, as far as there was anything */
  char old[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct plan *plan;
static const char *folder;
static struct written *unsynced;

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("BEACON_FAULT_PLAN");
  folder = getenv("BEACON_FAULT_FOLDER");
  if (!path || !folder) return;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) abort();
  void *mapped = mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) abort();
  close(fd);
  plan = mapped;
}

/* Whether the descriptor is the folder, or a file in it; `path` gets its path. */
static int ours(int fd, char path[PATH_MAX]) {
  if (!plan) return 0;
  char link[32] = "/proc/self/fd/", digits[12];
  int count = 0, rest = fd;
  if (fd < 0) return 0;
  do digits[count++] = (char)('0' + rest % 10); while (rest /= 10);
  for (char *to = link + 14; count; *to++ = digits[--count], *to = 0) {}
  ssize_t length = readlink(link, path, PATH_MAX - 1);
  if (length < 0) return 0;
  path[length] = 0;
  size_t prefix = strlen(folder);
  return !strncmp(path, folder, prefix) && (path[prefix] == '/' || !path[prefix]);
}

static void look_for_words(const void *bytes, size_t length) {
  const char *words = (const char *)plan->words;
  if (*words && !plan->found && memmem(bytes, length, words, strlen(words))) plan->found = 1;
}

static void remember(int fd, const char *path, off_t offset, size_t length) {
  struct stat stat;
  if (fstat(fd, &stat)) abort();
  size_t there = offset < stat.st_size ? (size_t)(stat.st_size - offset) : 0;
  if (length > there) length = there;
  struct written *entry = malloc(sizeof *entry + length);
  if (!entry) abort();
  /* A file that is only written to is new, and what is read of it does not matter. */
  ssize_t got = syscall(SYS_pread64, fd, entry->old, length, offset);
  entry->length = got > 0 ? (size_t)got : 0;
  entry->path = strdup(path);
  entry->offset = offset;
  entry->file_size = stat.st_size;
  entry->before = unsynced;
  unsynced = entry;
}

/* Forgets what was written; puts back what was there before, where `every` says so: each entry, or every other one. */
static void forget(uint64_t every) {
  for (uint64_t number = 0; unsynced; number++) {
    struct written *entry = unsynced;
    unsynced = entry->before;
    if (every && number % every == 0) {
      int fd = open(entry->path, O_WRONLY | O_CLOEXEC);
      if (fd >= 0) {
        syscall(SYS_pwrite64, fd, entry->old, entry->length, entry->offset);
        if (every == 1) syscall(SYS_ftruncate, fd, entry->file_size);
        close(fd);
      }
    }
    free(entry->path);
    free(entry);
  }
}

static void die(void) {
  plan->fired++;
  syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
  for (;;) pause();
}

static int fail(int error) {
  plan->fired++;
  errno = error;
  return -1;
}

static int is_due(uint64_t count, enum kind kind) {
  return plan->kind == kind && (*plan->words ? plan->found > plan->at : count >= plan->at);
}

/* What becomes of a write; 0 when nothing does. */
static int write_fault(void) {
  plan->writes++;
  if (is_due(plan->writes, WRITES_FULL)) return ENOSPC;
  if (is_due(plan->writes, WRITES_FAIL)) return EIO;
  return 0;
}

static int sync_with(long number, int fd) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return (int)syscall(number, fd);
  pthread_mutex_lock(&lock);
  plan->syncs++;
  if (plan->found) plan->found++;
  int result;
  if (is_due(plan->syncs, SYNCS_FAIL_LOSE) || is_due(plan->syncs, SYNCS_FAIL_KEEP)) {
    forget(plan->kind == SYNCS_FAIL_LOSE);
    result = fail(EIO);
  } else {
    if (is_due(plan->syncs, DIE_AND_LOSE)) { forget(1); die(); }
    if (is_due(plan->syncs, DIE_AND_TEAR)) { forget(2); die(); }
    forget(0);
    /* Nobody pulls the plug of the machine that the test runs on, and real syncs are slow. */
    result = 0;
    if (is_due(plan->syncs, DIE_AFTER)) die();
  }
  pthread_mutex_unlock(&lock);
  return result;
}

int fdatasync(int fd) { return sync_with(SYS_fdatasync, fd); }

int fsync(int fd) { return sync_with(SYS_fsync, fd); }

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return syscall(SYS_pwrite64, fd, bytes, length, offset);
  pthread_mutex_lock(&lock);
  int fault = write_fault();
  if (!fault) remember(fd, path, offset, length);
  look_for_words(bytes, length);
  ssize_t result = fault ? fail(fault) : syscall(SYS_pwrite64, fd, bytes, length, offset);
  pthread_mutex_unlock(&lock);
  return result;
}

ssize_t write(int fd, const void *bytes, size_t length) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return syscall(SYS_write, fd, bytes, length);
  pthread_mutex_lock(&lock);
  int fault = write_fault();
  if (!fault) remember(fd, path, lseek(fd, 0, SEEK_CUR), length);
  look_for_words(bytes, length);
  ssize_t result = fault ? fail(fault) : syscall(SYS_write, fd, bytes, length);
  pthread_mutex_unlock(&lock);
  return result;
}

int ftruncate64(int fd, off64_t length) {
  char path[PATH_MAX];
  if (!ours(fd, path)) return (int)syscall(SYS_ftruncate, fd, length);
  pthread_mutex_lock(&lock);
  int fault = write_fault();
  if (!fault) remember(fd, path, length, SIZE_MAX);
  int result = fault ? fail(fault) : (int)syscall(SYS_ftruncate, fd, length);
  pthread_mutex_unlock(&lock);
  return result;
}
