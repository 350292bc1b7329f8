// See folder.h. Files are written with the C library, whose errors say why.
#import "folder.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#import "errors.h"

static NSString *const MODEL_PATH = @"@model_path/"; // how a text names its own folder
static NSString *const TEXT = @"model.mil";
static NSString *const LOCK_PREFIX = @"anefast_", *const LOCK_SUFFIX = @".lock"; // around the folder's name

enum { TRIES = 3 }; // of writing, beside somebody who cleans up

struct ane_folder {
    struct ane_folder *next;
    NSString *path;
    unsigned users; // programs of this process
    int lock;       // the open lock file, locked for sharing
};

static pthread_mutex_t folders = PTHREAD_MUTEX_INITIALIZER;
static ane_folder *used; // by this process
static int swept;

// 1) locks

static NSString *lock_of(NSString *folder) {
    NSString *name = [NSString stringWithFormat:@"%@%@%@", LOCK_PREFIX, [folder lastPathComponent], LOCK_SUFFIX];
    return [[folder stringByDeletingLastPathComponent] stringByAppendingPathComponent:name];
}

// The folder's lock file, opened and locked by flock's `how`; -1 with errno where that cannot be had.
// One that was removed while we waited for it locks nothing, so another is made.
static int take(NSString *folder, int how) {
    const char *name = [lock_of(folder) fileSystemRepresentation];
    for (;;) {
        struct stat held, there;
        const int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0) return -1;
        int done = flock(file, how);
        while (done != 0 && errno == EINTR) done = flock(file, how);
        const int why = errno;
        if (done == 0 && fstat(file, &held) == 0 && stat(name, &there) == 0 && held.st_ino == there.st_ino) return file;
        close(file);
        errno = why;
        if (done != 0) return -1;
    }
}

// Ours alone: nobody else is using it, or will before the lock is closed.
static void remove_all(NSString *folder, int lock) {
    [[NSFileManager defaultManager] removeItemAtPath:folder error:NULL];
    unlink([lock_of(folder) fileSystemRepresentation]);
    close(lock);
}

static void sweep(NSString *temporary) {
    NSArray *names = [[NSFileManager defaultManager] contentsOfDirectoryAtPath:temporary error:NULL];
    for (NSUInteger i = 0; i < [names count]; i++) {
        NSString *name = [names objectAtIndex:i];
        if (![name hasPrefix:LOCK_PREFIX] || ![name hasSuffix:LOCK_SUFFIX]) continue;
        name = [name substringFromIndex:[LOCK_PREFIX length]];
        name = [name substringToIndex:[name length] - [LOCK_SUFFIX length]];
        if (![name length] || [name hasPrefix:@"."]) continue;
        NSString *folder = [temporary stringByAppendingPathComponent:name];
        const int lock = take(folder, LOCK_EX | LOCK_NB);
        if (lock >= 0) remove_all(folder, lock);
    }
}

// 2) files

// Leaves errno as it is.
static anefast_status told(anefast_error *error, NSString *path) {
    const int why = errno;
    set_error(error, ANEFAST_COMPILE,
              "[ane] expected to write %s, got: %s. Hint: the framework reads programs from the temporary folder; it "
              "needs room there for a copy of the weights.",
              [path fileSystemRepresentation], strerror(why));
    errno = why;
    return ANEFAST_COMPILE;
}

// With those above it: the system's temporary folder may be gone too.
static anefast_status make_folder(NSString *path, anefast_error *error) {
    if (mkdir([path fileSystemRepresentation], 0700) == 0 || errno == EEXIST) return ANEFAST_OK;
    NSString *above = [path stringByDeletingLastPathComponent];
    if (errno == ENOENT && [above length] > 1 && make_folder(above, error) == ANEFAST_OK &&
        (mkdir([path fileSystemRepresentation], 0700) == 0 || errno == EEXIST))
        return ANEFAST_OK;
    return told(error, path);
}

static int write_all(int file, const char *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = write(file, data + done, bytes - done);
        if (n < 0 && errno != EINTR) return -1;
        if (n > 0) done += (size_t)n;
    }
    return 0;
}

// Beside, under a name that nobody else has, then renamed: another thread or process, even one in a
// container with our number, may be compiling an equal program from it.
static anefast_status write_file(NSString *path, NSData *data, anefast_error *error) {
    char beside[PATH_MAX];
    const int n = snprintf(beside, sizeof beside, "%s.XXXXXX", [path fileSystemRepresentation]);
    errno = ENAMETOOLONG;
    const int file = n < (int)sizeof beside ? mkstemp(beside) : -1; // 0600, and never another's
    if (file < 0) return told(error, path);
    fcntl(file, F_SETFD, FD_CLOEXEC);
    int done = write_all(file, [data bytes], [data length]);
    const int why = errno;
    if (close(file) != 0) done = -1;
    else errno = why;
    if (done == 0 && rename(beside, [path fileSystemRepresentation]) == 0) return ANEFAST_OK;
    const anefast_status status = told(error, path);
    const int gone = errno == ENOENT;
    unlink(beside);
    if (gone) errno = ENOENT;
    return status;
}

NSDictionary *ane_weights(const anefast_blob *blobs, size_t n) {
    NSMutableDictionary *weights = [NSMutableDictionary dictionary];
    for (size_t i = 0; i < n; i++) {
        NSData *data = [NSData dataWithBytes:blobs[i].data length:blobs[i].bytes];
        NSDictionary *one =
            [NSDictionary dictionaryWithObjectsAndKeys:[NSNumber numberWithInt:0], @"offset", data, @"data", nil];
        [weights setObject:one forKey:[NSString stringWithUTF8String:blobs[i].path]];
    }
    return weights;
}

// What a program's folder holds: path inside it -> bytes. `path` of a blob is "@model_path/weights/w.bin";
// it may name folders, never leave ours.
static NSDictionary *files_of(NSData *text, NSDictionary *weights, anefast_error *error) {
    NSMutableDictionary *files = [NSMutableDictionary dictionaryWithObject:text forKey:TEXT];
    NSArray *paths = [weights allKeys];
    for (NSUInteger i = 0; i < [paths count]; i++) {
        NSString *path = [paths objectAtIndex:i], *inside = nil;
        NSArray *parts = nil;
        if ([path hasPrefix:MODEL_PATH]) {
            inside = [path substringFromIndex:[MODEL_PATH length]];
            parts = [inside componentsSeparatedByString:@"/"];
        }
        if (![parts count] || [parts containsObject:@".."] || [parts containsObject:@"."] ||
            [parts containsObject:@""] || [[parts objectAtIndex:0] isEqualToString:TEXT]) {
            set_error(error, ANEFAST_COMPILE, "[ane] expected a blob path like @model_path/weights/w.bin, got %s.",
                      [path UTF8String]);
            return nil;
        }
        [files setObject:[[weights objectForKey:path] objectForKey:@"data"] forKey:inside];
    }
    return files;
}

typedef enum { ABSENT, EQUAL, OTHER } found;

static int holds(const char *path, const char *data, size_t bytes) {
    char piece[1 << 14];
    const int file = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ssize_t n = file < 0 ? -1 : 1;
    size_t done = 0;
    while (n > 0) {
        n = read(file, piece, sizeof piece);
        if (n > 0 && ((size_t)n > bytes - done || memcmp(piece, data + done, (size_t)n))) n = -1;
        if (n > 0) done += (size_t)n;
    }
    if (file >= 0) close(file);
    return n == 0 && done == bytes;
}

static found look_at(NSString *path, NSData *data) {
    struct stat seen;
    const char *name = [path fileSystemRepresentation];
    if (lstat(name, &seen) != 0) return ABSENT;
    if (!S_ISREG(seen.st_mode) || (uint64_t)seen.st_size != [data length]) return OTHER;
    return holds(name, [data bytes], [data length]) ? EQUAL : OTHER;
}

// Whether one of the files is there with other bytes.
static int differs(NSString *folder, NSDictionary *files) {
    NSArray *names = [files allKeys];
    for (NSUInteger i = 0; i < [names count]; i++) {
        NSString *name = [names objectAtIndex:i];
        if (look_at([folder stringByAppendingPathComponent:name], [files objectForKey:name]) == OTHER) return 1;
    }
    return 0;
}

static anefast_status write_files(NSString *folder, NSDictionary *files, anefast_error *error) {
    anefast_status status = make_folder(folder, error);
    NSArray *names = [files allKeys];
    for (NSUInteger i = 0; i < [names count] && status == ANEFAST_OK; i++) {
        NSString *name = [names objectAtIndex:i], *path = [folder stringByAppendingPathComponent:name];
        if (look_at(path, [files objectForKey:name]) == EQUAL) continue;
        status = make_folder([path stringByDeletingLastPathComponent], error);
        if (status == ANEFAST_OK) status = write_file(path, [files objectForKey:name], error);
    }
    // Also where there are no weights: every program that was seen to run had this folder.
    return status ? status : make_folder([folder stringByAppendingPathComponent:@"weights"], error);
}

// Writes what is not there, and over what differs; again where a folder goes away on the way.
static anefast_status write_folder(NSString *folder, NSDictionary *files, anefast_error *error) {
    anefast_status status = ANEFAST_COMPILE;
    for (int left = TRIES; left-- && status != ANEFAST_OK;) {
        errno = 0;
        status = write_files(folder, files, error);
        if (status != ANEFAST_OK && errno != ENOENT) break;
    }
    return status;
}

// 3) users, under the mutex

static ane_folder *user_of(NSString *path, anefast_error *error) {
    ane_folder *found = used;
    while (found && ![found->path isEqualToString:path]) found = found->next;
    if (!found) {
        const int lock = take(path, LOCK_SH);
        if (lock < 0) {
            told(error, lock_of(path));
            return NULL;
        }
        found = calloc(1, sizeof *found);
        if (!found) {
            close(lock);
            set_error(error, ANEFAST_MEMORY, "[ane] expected memory for a folder's record, got none.");
            return NULL;
        }
        found->path = [path retain];
        found->lock = lock;
        found->next = used;
        used = found;
    }
    found->users++;
    return found;
}

static void leave(ane_folder *folder) {
    if (--folder->users) return;
    ane_folder **at = &used;
    while (*at != folder) at = &(*at)->next;
    *at = folder->next;
    if (flock(folder->lock, LOCK_EX | LOCK_NB) == 0) remove_all(folder->path, folder->lock);
    else close(folder->lock); // another process has it
    [folder->path release];
    free(folder);
}

// Ours to fill: nobody uses it, or what is in it is what we would write. Where others do and it is not,
// the system names two programs alike, and one would be compiled from the other's weights.
static anefast_status fill(ane_folder *folder, NSDictionary *files, anefast_error *error) {
    if (!differs(folder->path, files)) return write_folder(folder->path, files, error);
    const int alone = folder->users == 1 && flock(folder->lock, LOCK_EX | LOCK_NB) == 0;
    anefast_status status =
        alone ? write_folder(folder->path, files, error)
              : set_error(error, ANEFAST_COMPILE,
                          "[ane] expected %s to hold this program's files, got those of another program that is in "
                          "use and that the system gives the same name. Hint: wait for that run to end, or set "
                          "TMPDIR to another folder.",
                          [folder->path fileSystemRepresentation]);
    flock(folder->lock, LOCK_SH);
    return status;
}

ane_folder *ane_folder_create(NSString *hex, NSData *text, NSDictionary *weights, anefast_error *error) {
    NSString *temporary = NSTemporaryDirectory();
    if (!temporary) {
        set_error(error, ANEFAST_COMPILE, "[ane] expected a temporary folder, got none from the system.");
        return NULL;
    }
    NSDictionary *files = files_of(text, weights, error);
    if (!files || make_folder(temporary, error) != ANEFAST_OK) return NULL;
    pthread_mutex_lock(&folders);
    if (!swept) sweep(temporary);
    swept = 1;
    ane_folder *folder = user_of([temporary stringByAppendingPathComponent:hex], error);
    if (folder && fill(folder, files, error) != ANEFAST_OK) {
        leave(folder);
        folder = NULL;
    }
    pthread_mutex_unlock(&folders);
    return folder;
}

anefast_status ane_folder_restore(ane_folder *folder, NSData *text, NSDictionary *weights, int *missing,
                                  anefast_error *error) {
    NSDictionary *files = files_of(text, weights, error);
    NSArray *names = [files allKeys];
    anefast_status status = ANEFAST_OK;
    *missing = 0;
    pthread_mutex_lock(&folders);
    for (NSUInteger i = 0; i < [names count]; i++) {
        NSString *path = [folder->path stringByAppendingPathComponent:[names objectAtIndex:i]];
        *missing |= access([path fileSystemRepresentation], F_OK) != 0;
    }
    if (*missing) status = write_folder(folder->path, files, error);
    pthread_mutex_unlock(&folders);
    return status;
}

// 4) what a compiler has left in it

static anefast_status give(NSString *name, NSString *from, NSString *to, anefast_error *error) {
    from = [from stringByAppendingPathComponent:name];
    to = [to stringByAppendingPathComponent:name];
    if (link([from fileSystemRepresentation], [to fileSystemRepresentation]) == 0 || errno == EEXIST) return ANEFAST_OK;
    errno = EIO;
    NSData *data = [NSData dataWithContentsOfFile:from];
    return data ? write_file(to, data, error) : told(error, to);
}

// Every file directly in `from` but those named, whose number is *given afterwards.
static anefast_status give_all(NSString *from, NSString *to, NSDictionary *but, NSUInteger *given,
                               anefast_error *error) {
    NSArray *names = [[NSFileManager defaultManager] contentsOfDirectoryAtPath:from error:NULL];
    anefast_status status = ANEFAST_OK;
    *given = 0;
    for (NSUInteger i = 0; i < [names count] && status == ANEFAST_OK; i++) {
        NSString *name = [names objectAtIndex:i];
        struct stat seen;
        const char *path = [[from stringByAppendingPathComponent:name] fileSystemRepresentation];
        if ([but objectForKey:name] || lstat(path, &seen) != 0 || !S_ISREG(seen.st_mode)) continue;
        status = give(name, from, to, error);
        ++*given;
    }
    return status;
}

anefast_status ane_folder_keep(ane_folder *folder, NSData *text, NSDictionary *weights, NSString *to,
                               anefast_error *error) {
    NSDictionary *own = files_of(text, weights, error);
    NSUInteger given = 0;
    if (!own) return ANEFAST_COMPILE;
    pthread_mutex_lock(&folders);
    const anefast_status status = give_all(folder->path, to, own, &given, error);
    pthread_mutex_unlock(&folders);
    if (status != ANEFAST_OK || given) return status;
    return set_error(error, ANEFAST_COMPILE, "[ane] expected files of the compiler in %s, got none to keep.",
                     [folder->path fileSystemRepresentation]);
}

anefast_status ane_folder_bring(ane_folder *folder, NSString *from, anefast_error *error) {
    NSUInteger given = 0;
    pthread_mutex_lock(&folders);
    const anefast_status status = give_all(from, folder->path, [NSDictionary dictionary], &given, error);
    pthread_mutex_unlock(&folders);
    return status;
}

NSString *ane_folder_path(const ane_folder *folder) { return folder->path; }

void ane_folder_release(ane_folder *folder) {
    pthread_mutex_lock(&folders);
    leave(folder);
    pthread_mutex_unlock(&folders);
}
