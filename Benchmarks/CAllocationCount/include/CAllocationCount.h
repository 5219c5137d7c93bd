/* Counts what a program takes from the heap and retains. Linking this target replaces the calls of the whole process. */
#ifndef C_ALLOCATION_COUNT_H
#define C_ALLOCATION_COUNT_H

#include <stdint.h>

/* Calls of malloc, calloc, realloc and the aligned forms so far, by all threads. */
uint64_t repld_allocation_count(void);

/* Calls of swift_retain and swift_retain_n so far, by all threads; what the runtime retains inside itself is not seen. */
uint64_t repld_retain_count(void);

#endif
