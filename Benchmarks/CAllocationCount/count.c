#define _GNU_SOURCE
#include "CAllocationCount.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

static _Atomic uint64_t allocations;
static _Atomic uint64_t retains;

static void count(_Atomic uint64_t *counter) { atomic_fetch_add_explicit(counter, 1, memory_order_relaxed); }

uint64_t repld_allocation_count(void) { return atomic_load_explicit(&allocations, memory_order_relaxed); }
uint64_t repld_retain_count(void) { return atomic_load_explicit(&retains, memory_order_relaxed); }

/* The names under which glibc keeps its own functions for those who replace the public ones. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t number, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size) {
    count(&allocations);
    return __libc_malloc(size);
}

void *calloc(size_t number, size_t size) {
    count(&allocations);
    return __libc_calloc(number, size);
}

void *realloc(void *memory, size_t size) {
    count(&allocations);
    return __libc_realloc(memory, size);
}

void *memalign(size_t alignment, size_t size) {
    count(&allocations);
    return __libc_memalign(alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    count(&allocations);
    return __libc_memalign(alignment, size);
}

int posix_memalign(void **memory, size_t alignment, size_t size) {
    count(&allocations);
    *memory = __libc_memalign(alignment, size);
    return *memory ? 0 : ENOMEM;
}

/* The runtime's own hook for this crashes in Swift 6.3 when a short string is retained. */
void *swift_retain(void *object) {
    static void *(*_Atomic original)(void *);
    void *(*retain)(void *) = atomic_load_explicit(&original, memory_order_relaxed);
    if (!retain) {
        retain = (void *(*)(void *))dlsym(RTLD_NEXT, "swift_retain");
        atomic_store_explicit(&original, retain, memory_order_relaxed);
    }
    count(&retains);
    return retain(object);
}

void *swift_retain_n(void *object, uint32_t number) {
    static void *(*_Atomic original)(void *, uint32_t);
    void *(*retain)(void *, uint32_t) = atomic_load_explicit(&original, memory_order_relaxed);
    if (!retain) {
        retain = (void *(*)(void *, uint32_t))dlsym(RTLD_NEXT, "swift_retain_n");
        atomic_store_explicit(&original, retain, memory_order_relaxed);
    }
    count(&retains);
    return retain(object, number);
}
