#define _GNU_SOURCE
#include "CRepldLinux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <linux/magic.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef FS_IOC_GETFSUUID /* Linux 6.9 */
struct fsuuid2 {
    uint8_t len;
    uint8_t uuid[16];
};
#define FS_IOC_GETFSUUID _IOR(0x15, 0, struct fsuuid2)
#endif

const int repld_O_DIRECT = O_DIRECT;
const int repld_RWF_DSYNC = 0x00000002; /* RWF_DSYNC; a cast to a kernel type in the header */
const int repld_FALLOC_PUNCH_HOLE = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
const int repld_FALLOC_ZERO_RANGE = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
const int repld_SEEK_DATA = SEEK_DATA;
const int repld_SEEK_HOLE = SEEK_HOLE;

int repld_eventfd(void) { return eventfd(0, EFD_CLOEXEC); }

int repld_fallocate(int fd, int mode, int64_t offset, int64_t length) { return fallocate(fd, mode, offset, length); }

void repld_name_this_thread(const char *name) { (void)pthread_setname_np(pthread_self(), name); }

static void fill(struct repld_file_facts *facts, const struct stat *status) {
    memset(facts, 0, sizeof *facts);
    if (S_ISREG(status->st_mode)) facts->kind = REPLD_KIND_REGULAR;
    else if (S_ISDIR(status->st_mode)) facts->kind = REPLD_KIND_DIRECTORY;
    else if (S_ISBLK(status->st_mode)) facts->kind = REPLD_KIND_BLOCK;
    else if (S_ISSOCK(status->st_mode)) facts->kind = REPLD_KIND_SOCKET;
    facts->byte_count = (uint64_t)status->st_size;
    facts->preferred_block_byte_count = (uint32_t)status->st_blksize;
    facts->device_major = major(status->st_dev);
    facts->device_minor = minor(status->st_dev);
    facts->inode = status->st_ino;
    facts->own_major = major(status->st_rdev);
    facts->own_minor = minor(status->st_rdev);
}

int repld_file_facts_of_descriptor(int fd, struct repld_file_facts *facts) {
    struct stat status;
    if (fstat(fd, &status) != 0) return -1;
    fill(facts, &status);
    return 0;
}

bool repld_is_in_memory(int fd) {
    struct stat status;
    struct statfs system;
    /* The node of a device lies in a file system in memory, too (/dev): what it stands for does not. */
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return false;
    if (fstatfs(fd, &system) != 0) return false;
    return system.f_type == TMPFS_MAGIC || system.f_type == RAMFS_MAGIC;
}

int repld_file_facts_of_path(const char *path, struct repld_file_facts *facts) {
    struct stat status;
    if (stat(path, &status) != 0) return -1;
    fill(facts, &status);
    return 0;
}

/* Of these the number of statfs(2) stays from mount to mount, or the files do not; of others it may follow the device's. */
static bool has_stable_number(const struct statfs *system) {
    return system->f_type == EXT4_SUPER_MAGIC || system->f_type == BTRFS_SUPER_MAGIC || system->f_type == TMPFS_MAGIC;
}

static void fill_file_system(const char *path, struct repld_file_identity *identity) {
    struct statfs system;
    if (statfs(path, &system) != 0) return;
    if (has_stable_number(&system)) {
        _Static_assert(sizeof system.f_fsid == 8, "f_fsid is 8 bytes");
        memcpy(&identity->file_system[0], &system.f_fsid, 8);
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return;
    struct fsuuid2 uuid;
    memset(&uuid, 0, sizeof uuid);
    if (ioctl(fd, FS_IOC_GETFSUUID, &uuid) == 0) memcpy(identity->file_system, uuid.uuid, sizeof identity->file_system);
    close(fd);
}

int repld_file_identity_of_path(const char *path, struct repld_file_identity *identity) {
    struct statx facts;
    memset(identity, 0, sizeof *identity);
    if (statx(AT_FDCWD, path, 0, STATX_INO | STATX_SIZE | STATX_TYPE | STATX_BTIME, &facts) != 0) return -1;
    identity->is_regular = S_ISREG(facts.stx_mode);
    identity->is_block_device = S_ISBLK(facts.stx_mode);
    identity->byte_count = facts.stx_size;
    identity->inode = facts.stx_ino;
    identity->own_major = facts.stx_rdev_major;
    identity->own_minor = facts.stx_rdev_minor;
    if (facts.stx_mask & STATX_BTIME) {
        identity->birth_seconds = facts.stx_btime.tv_sec;
        identity->birth_nanoseconds = facts.stx_btime.tv_nsec;
    }
    if (identity->is_regular) fill_file_system(path, identity);
    return 0;
}

int repld_block_device_facts(int fd, struct repld_block_device_facts *facts) {
    int logical = 0, read_only = 0;
    unsigned physical = 0;
    if (ioctl(fd, BLKGETSIZE64, &facts->byte_count) != 0) return -1;
    if (ioctl(fd, BLKSSZGET, &logical) != 0) return -1;
    if (ioctl(fd, BLKPBSZGET, &physical) != 0) return -1;
    if (ioctl(fd, BLKROGET, &read_only) != 0) return -1;
    facts->logical_block_byte_count = (uint32_t)logical;
    facts->physical_block_byte_count = physical;
    facts->is_read_only = read_only != 0;
    return 0;
}

/* The head of struct statx up to the fields of STATX_DIOALIGN: glibc's own struct may be older than the kernel. */
struct statx_head {
    uint32_t mask;
    uint8_t other[0x98 - 4];
    uint32_t dio_mem_align;
    uint32_t dio_offset_align;
    uint8_t rest[256 - 0xa0];
};
_Static_assert(sizeof(struct statx_head) == 256, "struct statx is 256 bytes");

int repld_direct_alignment(int fd, uint32_t *memory_alignment, uint32_t *offset_alignment) {
    const unsigned dioalign = 0x00002000U;
    struct statx_head head;
    memset(&head, 0, sizeof head);
    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, dioalign, &head) != 0) return 0;
    if (!(head.mask & dioalign)) return 0;
    *memory_alignment = head.dio_mem_align;
    *offset_alignment = head.dio_offset_align;
    return 1;
}

static int fill_unix(struct sockaddr_un *address, const char *path) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    strcpy(address->sun_path, path);
    return 0;
}

int repld_connect_unix(int fd, const char *path) {
    struct sockaddr_un address;
    if (fill_unix(&address, path) != 0) return -1;
    return connect(fd, (const struct sockaddr *)&address, sizeof address);
}

int repld_bind_unix(int fd, const char *path) {
    struct sockaddr_un address;
    if (fill_unix(&address, path) != 0) return -1;
    return bind(fd, (const struct sockaddr *)&address, sizeof address);
}
