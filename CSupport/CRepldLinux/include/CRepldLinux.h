/* Linux calls and constants that Swift's Glibc module lacks, because it is built without _GNU_SOURCE. */
#ifndef C_REPLD_LINUX_H
#define C_REPLD_LINUX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* open(2): transfers bypass the page cache. */
extern const int repld_O_DIRECT;
/* pwritev2(2): this one write is on stable storage before it completes. */
extern const int repld_RWF_DSYNC;
/* fallocate(2): make a hole, keep the size. */
extern const int repld_FALLOC_PUNCH_HOLE;
/* fallocate(2): zeroes with the space kept, keep the size. */
extern const int repld_FALLOC_ZERO_RANGE;
/* lseek(2): the next byte that is stored, the next that is not. */
extern const int repld_SEEK_DATA;
extern const int repld_SEEK_HOLE;

/* eventfd(2), closed on exec, blocking: io_uring waits for it by polling. */
int repld_eventfd(void);
/* fallocate(2); Glibc's module has only the posix variant, which writes zeroes where it cannot allocate. */
int repld_fallocate(int fd, int mode, int64_t offset, int64_t length);
/* pthread_setname_np for the calling thread; at most 15 characters. */
void repld_name_this_thread(const char *name);

/* What a file name stands for; S_ISREG and friends and the parts of a dev_t are macros. */
enum repld_file_kind { REPLD_KIND_OTHER = 0, REPLD_KIND_REGULAR, REPLD_KIND_DIRECTORY, REPLD_KIND_BLOCK, REPLD_KIND_SOCKET };
struct repld_file_facts {
    int kind; /* enum repld_file_kind */
    uint64_t byte_count;
    uint32_t preferred_block_byte_count;
    /* The device that holds the inode, and the inode. */
    uint32_t device_major, device_minor;
    uint64_t inode;
    /* The device that the file is, where it is one. */
    uint32_t own_major, own_minor;
};
/* fstat(2) and stat(2); 0 or -1 with errno. */
int repld_file_facts_of_descriptor(int fd, struct repld_file_facts *facts);
int repld_file_facts_of_path(const char *path, struct repld_file_facts *facts);

/* Whether this is a regular file whose bytes lie in memory (tmpfs, ramfs). Never true of a device, wherever its node is. */
bool repld_is_in_memory(int fd);

/* What tells a file from another one that was put in its place, also after the machine was started again. */
struct repld_file_identity {
    bool is_regular, is_block_device;
    uint64_t byte_count; /* 0 of a device */
    uint64_t inode;
    int64_t birth_seconds; /* both 0 where the file system does not know */
    uint32_t birth_nanoseconds;
    uint8_t file_system[16]; /* all 0 where there is no number that stays */
    uint32_t own_major, own_minor; /* of a device */
};
/* statx(2), statfs(2) and FS_IOC_GETFSUUID; 0 or -1 with errno. */
int repld_file_identity_of_path(const char *path, struct repld_file_identity *identity);

struct repld_block_device_facts {
    uint64_t byte_count;
    uint32_t logical_block_byte_count;
    uint32_t physical_block_byte_count;
    bool is_read_only;
};
/* BLKGETSIZE64, BLKSSZGET, BLKPBSZGET and BLKROGET; 0 or -1 with errno. */
int repld_block_device_facts(int fd, struct repld_block_device_facts *facts);

/* The alignment that direct I/O on a file wants, from statx(STATX_DIOALIGN), Linux 6.1 and later.
   1: known and stored; both 0 when the file takes no direct I/O. 0: the kernel or file system does not say. */
int repld_direct_alignment(int fd, uint32_t *memory_alignment, uint32_t *offset_alignment);

/* connect(2) and bind(2) with a unix-domain address: sun_path is a tuple in Swift. */
int repld_connect_unix(int fd, const char *path);
int repld_bind_unix(int fd, const char *path);

#endif
