/* liburing, and the few things of it that do not come into Swift by themselves. */
#ifndef C_LIBURING_H
#define C_LIBURING_H

/* liburing.h asks for _GNU_SOURCE, which renames the member of fd_set; Swift's Glibc module has the other name, and one
   program cannot have both. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <features.h>
#pragma push_macro("__USE_XOPEN")
#undef __USE_XOPEN
#include <sys/select.h>
#pragma pop_macro("__USE_XOPEN")
#include <liburing.h>

/* An enum-based shift is not imported: the file number of the entry is an index into the registered table. */
static inline void repld_sqe_use_fixed_file(struct io_uring_sqe *_Nonnull sqe) { sqe->flags |= IOSQE_FIXED_FILE; }

/* The completion `place` behind the oldest one; only valid below io_uring_cq_ready(). io_uring_for_each_cqe is a macro. */
static inline const struct io_uring_cqe *_Nonnull repld_cqe_at(const struct io_uring *_Nonnull ring, unsigned place) {
    return &ring->cq.cqes[(*ring->cq.khead + place) & ring->cq.ring_mask];
}

/* The anonymous enum of liburing's operation numbers imports with a type of its own; this is the plain number. */
static inline int repld_opcode_socket(void) { return IORING_OP_SOCKET; }

#endif
