/* Files of the host, by Arm semihosting: a breakpoint that an emulator or a debugger answers. */
#ifndef POLICYPRESS_SEMIHOSTING_H
#define POLICYPRESS_SEMIHOSTING_H

#include <stddef.h>
#include <stdint.h>

enum { SYS_OPEN = 0x01, SYS_CLOSE = 0x02, SYS_WRITE = 0x05, SYS_READ = 0x06, SYS_SEEK = 0x0A, SYS_EXIT = 0x18 };

static inline int32_t semihost(uint32_t operation, uintptr_t argument) {
    register uintptr_t r0 __asm__("r0") = operation;
    register uintptr_t r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

/* A handle, or -1. */
static inline int32_t open_file(const char *name, size_t length, int write) {
    const uintptr_t block[3] = {(uintptr_t)name, write ? 5 : 1, length}; /* "wb", "rb" */
    return semihost(SYS_OPEN, (uintptr_t)block);
}

static inline void rewind_file(int32_t file) {
    const uintptr_t block[2] = {(uintptr_t)file, 0};
    semihost(SYS_SEEK, (uintptr_t)block);
}

/* Whether all `size` bytes were read. */
static inline int read_file(int32_t file, void *to, size_t size) {
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)to, size};
    return semihost(SYS_READ, (uintptr_t)block) == 0;
}

static inline int write_file(int32_t file, const void *from, size_t size) {
    const uintptr_t block[3] = {(uintptr_t)file, (uintptr_t)from, size};
    return semihost(SYS_WRITE, (uintptr_t)block) == 0;
}

static inline void close_file(int32_t file) {
    const uintptr_t block[1] = {(uintptr_t)file};
    semihost(SYS_CLOSE, (uintptr_t)block);
}

/* Ends the program; the emulator exits with 0 if `good`, else with 1. */
static inline void leave(int good) {
    semihost(SYS_EXIT, good ? 0x20026u : 0x20023u);
}

#endif
