// A program of the ane device, from MIL text to unload, and the requests it keeps.
#ifndef ANEFAST_ANE_PROGRAM_H
#define ANEFAST_ANE_PROGRAM_H

#include "../anefast.h"

anefast_status ane_program_compile(uint32_t qos, const char *text, size_t text_bytes, const anefast_blob *blobs,
                                   size_t n_blobs, anefast_program **program, anefast_error *error);
// Copies the files that the compiler has left in the program's folder out of it, and back.
anefast_status ane_program_keep(const anefast_program *program, const char *folder, anefast_error *error);
anefast_status ane_program_load_kept(uint32_t qos, const char *text, size_t text_bytes, const anefast_blob *blobs,
                                     size_t n_blobs, const char *folder, anefast_program **program,
                                     anefast_error *error);
size_t ane_program_inputs(const anefast_program *program, const anefast_port **ports);
size_t ane_program_outputs(const anefast_program *program, const anefast_port **ports);
size_t ane_program_bytes(const anefast_program *program);
int ane_program_was_cached(const anefast_program *program);
anefast_status ane_program_reload(anefast_program *program, int *compiled, anefast_error *error);
anefast_status ane_program_unload(anefast_program *program, anefast_error *error);
anefast_status ane_program_evaluate(anefast_program *program, anefast_surface *const *inputs, size_t n_inputs,
                                    anefast_surface *const *outputs, size_t n_outputs, anefast_error *error);

// Drops every request, of any program, that names this surface. Before the surface is freed.
void ane_program_forget(const anefast_surface *surface);

#endif
