// The folder of a program: where the framework looks for model.mil and its weight files.
//
// Its name is the program's own identifier, so two loaded programs of the same text and weights share
// one; the last of them removes it. Nothing else in csrc/ane touches the file system.
#ifndef ANEFAST_ANE_FOLDER_H
#define ANEFAST_ANE_FOLDER_H

#import <Foundation/Foundation.h>

#include "../anefast.h"

// Makes NSTemporaryDirectory()/<hex> and writes everything into it. Returns its path, retained and
// to be given to ane_folder_release; nil with `error` filled where it cannot be written.
NSString *ane_folder_create(NSString *hex, NSData *text, const anefast_blob *blobs, size_t n_blobs,
                            anefast_error *error);
void ane_folder_release(NSString *folder); // removes it with its last user

#endif
