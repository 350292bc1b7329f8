// See folder.h. Files are written with the C library, whose errors say why.
#import "folder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#import "errors.h"

static NSString *const MODEL_PATH = @"@model_path/"; // how a text names its own folder

static pthread_mutex_t folders = PTHREAD_MUTEX_INITIALIZER;
static NSCountedSet *users; // of each path; of this process

static anefast_status told(anefast_error *error, const char *path) {
    const int why = errno;
    return ane_fail(error, ANEFAST_COMPILE,
                    "[ane] expected to write %s, got: %s. Hint: the framework reads programs from the temporary folder; "
                    "it needs room there for a copy of the weights.",
                    path, strerror(why));
}

static anefast_status make_folder(NSString *path, anefast_error *error) {
    const char *name = [path fileSystemRepresentation];
    if (mkdir(name, 0700) == 0 || errno == EEXIST) return ANEFAST_OK;
    return told(error, name);
}

static anefast_status write_file(NSString *path, const void *data, size_t bytes, anefast_error *error) {
    const char *name = [path fileSystemRepresentation];
    const int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) return told(error, name);
    for (size_t done = 0; done < bytes;) {
        const ssize_t n = write(file, (const char *)data + done, bytes - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            const anefast_status status = told(error, name);
            close(file);
            return status;
        }
        done += (size_t)n;
    }
    return close(file) == 0 ? ANEFAST_OK : told(error, name);
}

// `path` of a blob is "@model_path/weights/w.bin"; it may name folders, never leave ours.
static anefast_status write_blob(NSString *folder, const anefast_blob *blob, anefast_error *error) {
    NSString *path = [NSString stringWithUTF8String:blob->path];
    NSArray *parts = nil;
    if ([path hasPrefix:MODEL_PATH])
        parts = [[path substringFromIndex:[MODEL_PATH length]] componentsSeparatedByString:@"/"];
    if (![parts count] || [parts containsObject:@".."] || [parts containsObject:@"."] || [parts containsObject:@""])
        return ane_fail(error, ANEFAST_COMPILE, "[ane] expected a blob path like @model_path/weights/w.bin, got %s.",
                        blob->path);
    anefast_status status = ANEFAST_OK;
    for (NSUInteger i = 0; i + 1 < [parts count] && status == ANEFAST_OK; i++) {
        folder = [folder stringByAppendingPathComponent:[parts objectAtIndex:i]];
        status = make_folder(folder, error);
    }
    if (status != ANEFAST_OK) return status;
    return write_file([folder stringByAppendingPathComponent:[parts lastObject]], blob->data, blob->bytes, error);
}

NSString *ane_folder_create(NSString *hex, NSData *text, const anefast_blob *blobs, size_t n_blobs,
                            anefast_error *error) {
    NSString *folder = [[NSTemporaryDirectory() stringByAppendingPathComponent:hex] retain];
    if (!folder) {
        ane_fail(error, ANEFAST_COMPILE, "[ane] expected a temporary folder, got none from the system.");
        return nil;
    }
    pthread_mutex_lock(&folders);
    if (!users) users = [[NSCountedSet alloc] init];
    [users addObject:folder];
    // Under the mutex: the release of an equal program must not remove what is being written.
    anefast_status status = make_folder(folder, error);
    if (status == ANEFAST_OK)
        status = write_file([folder stringByAppendingPathComponent:@"model.mil"], [text bytes], [text length], error);
    for (size_t i = 0; i < n_blobs && status == ANEFAST_OK; i++) status = write_blob(folder, &blobs[i], error);
    pthread_mutex_unlock(&folders);
    if (status == ANEFAST_OK) return folder;
    ane_folder_release(folder);
    return nil;
}

void ane_folder_release(NSString *folder) {
    pthread_mutex_lock(&folders);
    [users removeObject:folder];
    if (![users countForObject:folder]) [[NSFileManager defaultManager] removeItemAtPath:folder error:NULL];
    pthread_mutex_unlock(&folders);
    [folder release];
}
