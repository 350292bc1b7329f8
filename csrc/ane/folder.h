// The folder of a program: where the framework looks for model.mil and its weight files.
//
// Its name is the program's own identifier, so equal programs share one, in this process and in others.
// Each user holds a lock that ends with its process, however the process ends. The last user removes
// the folder. Folders of processes that were killed are removed when the next process makes its first.
// Nothing else in csrc/ane touches the file system.
#ifndef ANEFAST_ANE_FOLDER_H
#define ANEFAST_ANE_FOLDER_H

#import <Foundation/Foundation.h>

#include "../anefast.h"

typedef struct ane_folder ane_folder;

// BLOBFILE path -> {"offset": 0, "data": its bytes}, as the framework wants weights.
NSDictionary *ane_weights(const anefast_blob *blobs, size_t n);

// Makes NSTemporaryDirectory()/<hex> and writes everything into it; give it to ane_folder_release.
// weights: of ane_weights. NULL with `error`
// filled where it cannot be written, or where somebody uses a folder of that name with other contents.
ane_folder *ane_folder_create(NSString *hex, NSData *text, NSDictionary *weights, anefast_error *error);
// Writes missing files again, because systems clean their temporary folders. *missing: whether any
// file was missing.
anefast_status ane_folder_restore(ane_folder *folder, NSData *text, NSDictionary *weights, int *missing,
                                  anefast_error *error);
// Copies the files that compiling has added into another folder, and back. A copy is a hard link if
// the file system allows it. `keep` fails if nothing was added.
anefast_status ane_folder_keep(ane_folder *folder, NSData *text, NSDictionary *weights, NSString *to,
                               anefast_error *error);
anefast_status ane_folder_bring(ane_folder *folder, NSString *from, anefast_error *error);
NSString *ane_folder_path(const ane_folder *folder);
void ane_folder_release(ane_folder *folder); // removes it with its last user

#endif
