// See folder.h. Files are written with the C library, whose errors say why.
#import "folder.h"

#include <errno.h>
#include <fcntl.h>
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
        if (done == 0 && fstat(file, &held) == 0 && stat(name, &there) == 0 && held.st_ino == there.st_ino)
            return file;
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

static anefast_status told(anefast_error *error, NSString *path) {
    const int why = errno;
    return set_error(error, ANEFAST_COMPILE,
                     "[ane] expected to write %s, got: %s. Hint: the framework reads programs from the temporary "
                     "folder; it needs room there for a copy of the weights.",
                     [path fileSystemRepresentation], strerror(why));
}

static anefast_status make_folder(NSString *path, anefast_error *error) {
    if (mkdir([path fileSystemRepresentation], 0700) == 0 || errno == EEXIST) return ANEFAST_OK;
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

// Beside, then renamed: another thread or process may be compiling an equal program from it.
static anefast_status write_file(NSString *path, const void *data, size_t bytes, anefast_error *error) {
    NSString *beside = [path stringByAppendingFormat:@".%d", (int)getpid()];
    const char *name = [beside fileSystemRepresentation];
    const int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) return told(error, path);
    int done = write_all(file, data, bytes);
    const int why = errno;
    if (close(file) != 0) done = -1;
    else errno = why;
    if (done == 0 && rename(name, [path fileSystemRepresentation]) == 0) return ANEFAST_OK;
    const anefast_status status = told(error, path);
    unlink(name);
    return status;
}

// `path` of a blob is "@model_path/weights/w.bin"; it may name folders, never leave ours.
static anefast_status write_blob(NSString *folder, const anefast_blob *blob, anefast_error *error) {
    NSString *path = [NSString stringWithUTF8String:blob->path];
    NSArray *parts = nil;
    if ([path hasPrefix:MODEL_PATH])
        parts = [[path substringFromIndex:[MODEL_PATH length]] componentsSeparatedByString:@"/"];
    if (![parts count] || [parts containsObject:@".."] || [parts containsObject:@"."] || [parts containsObject:@""] ||
        [[parts objectAtIndex:0] isEqualToString:TEXT])
        return set_error(error, ANEFAST_COMPILE, "[ane] expected a blob path like @model_path/weights/w.bin, got %s.",
                         blob->path);
    anefast_status status = ANEFAST_OK;
    for (NSUInteger i = 0; i + 1 < [parts count] && status == ANEFAST_OK; i++) {
        folder = [folder stringByAppendingPathComponent:[parts objectAtIndex:i]];
        status = make_folder(folder, error);
    }
    if (status != ANEFAST_OK) return status;
    return write_file([folder stringByAppendingPathComponent:[parts lastObject]], blob->data, blob->bytes, error);
}

static anefast_status write_folder(NSString *folder, NSData *text, const anefast_blob *blobs, size_t n_blobs,
                                   anefast_error *error) {
    anefast_status status = make_folder(folder, error);
    if (status == ANEFAST_OK)
        status = write_file([folder stringByAppendingPathComponent:TEXT], [text bytes], [text length], error);
    // Also where there are no weights: every program that was seen to run had this folder.
    if (status == ANEFAST_OK) status = make_folder([folder stringByAppendingPathComponent:@"weights"], error);
    for (size_t i = 0; i < n_blobs && status == ANEFAST_OK; i++) status = write_blob(folder, &blobs[i], error);
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
            set_error(error, ANEFAST_MEMORY, "[ane] no memory for a folder's record.");
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

ane_folder *ane_folder_create(NSString *hex, NSData *text, const anefast_blob *blobs, size_t n_blobs,
                              anefast_error *error) {
    NSString *temporary = NSTemporaryDirectory();
    if (!temporary) {
        set_error(error, ANEFAST_COMPILE, "[ane] expected a temporary folder, got none from the system.");
        return NULL;
    }
    pthread_mutex_lock(&folders);
    if (!swept) sweep(temporary);
    swept = 1;
    ane_folder *folder = user_of([temporary stringByAppendingPathComponent:hex], error);
    if (folder && write_folder(folder->path, text, blobs, n_blobs, error) != ANEFAST_OK) {
        leave(folder);
        folder = NULL;
    }
    pthread_mutex_unlock(&folders);
    return folder;
}

void ane_folder_release(ane_folder *folder) {
    pthread_mutex_lock(&folders);
    leave(folder);
    pthread_mutex_unlock(&folders);
}
