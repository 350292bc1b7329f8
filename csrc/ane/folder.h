// The folder of a program: where the framework looks for model.mil and its weight files.
//
// Its name is the program's own identifier, so equal programs share one, in this process and in others.
// Whoever uses it holds a lock that ends with its process, however that ends: the last user removes
// the folder, and what a process that was killed has left goes when the next one makes its first.
// Nothing else in csrc/ane touches the file system.
#ifndef ANEFAST_ANE_FOLDER_H
#define ANEFAST_ANE_FOLDER_H

#import <Foundation/Foundation.h>

#include "../anefast.h"

typedef struct ane_folder ane_folder;

// Makes NSTemporaryDirectory()/<hex> and writes everything into it; give it to ane_folder_release.
// weights: BLOBFILE path -> the dictionary with "data" that the framework gets too. NULL with `error`
// filled where it cannot be written, or where somebody uses a folder of that name with other contents.
ane_folder *ane_folder_create(NSString *hex, NSData *text, NSDictionary *weights, anefast_error *error);
// Writes again what is gone from it: systems clean their temporary folders. *missing says whether
// anything was.
anefast_status ane_folder_restore(ane_folder *folder, NSData *text, NSDictionary *weights, int *missing,
                                  anefast_error *error);
// What compiling has added to it, into another folder and from there. Each is a second name of one file
// where the file system can do that. `keep` fails where nothing was added.
anefast_status ane_folder_keep(ane_folder *folder, NSData *text, NSDictionary *weights, NSString *to,
                               anefast_error *error);
anefast_status ane_folder_bring(ane_folder *folder, NSString *from, anefast_error *error);
void ane_folder_release(ane_folder *folder); // removes it with its last user

#endif
