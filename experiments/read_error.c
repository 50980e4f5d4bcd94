/* Reads of one file fail as those of a bad disk do (EIO), for experiments/storms.py: loaded before everything else
   (LD_PRELOAD). READ_ERROR_FILE is how the file's path ends; READ_ERROR_AFTER, how many reads of it go well before, in
   each process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int fails(int file) {
  static long reads = 0;
  const char *ending = getenv("READ_ERROR_FILE"), *after = getenv("READ_ERROR_AFTER");
  char link[32], path[4096];
  int before = errno;
  if (!ending || file < 0) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  size_t wanted = strlen(ending);
  if (length < (ssize_t)wanted || strncmp(path + length - wanted, ending, wanted)) return 0;
  if (__sync_add_and_fetch(&reads, 1) <= (after ? atol(after) : 0)) return 0;
  errno = EIO;
  return 1;
}

#define TRUE_ONE(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t read(int file, void *into, size_t bytes) {
  TRUE_ONE(read);
  return fails(file) ? -1 : real(file, into, bytes);
}

ssize_t pread(int file, void *into, size_t bytes, off_t from) {
  TRUE_ONE(pread);
  return fails(file) ? -1 : real(file, into, bytes, from);
}

ssize_t pread64(int file, void *into, size_t bytes, off64_t from) {
  TRUE_ONE(pread64);
  return fails(file) ? -1 : real(file, into, bytes, from);
}

size_t fread(void *into, size_t size, size_t count, FILE *stream) {
  TRUE_ONE(fread);
  return fails(fileno(stream)) ? 0 : real(into, size, count, stream);
}
