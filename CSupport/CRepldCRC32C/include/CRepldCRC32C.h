/* CRC-32C (Castagnoli polynomial 0x1EDC6F41, reflected; RFC 3720 appendix B.4), as iSCSI, ext4 and DRBD use it. */
#ifndef C_REPLD_CRC32C_H
#define C_REPLD_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continues a checksum over `count` bytes. Start with 0; the result of one call may be given to the next.
   Uses the processor's instruction where it has one, and a table otherwise; both give the same value. */
uint32_t repld_crc32c(uint32_t checksum, const void *bytes, size_t count);

/* The table path alone, so that a test can compare the two. */
uint32_t repld_crc32c_table(uint32_t checksum, const void *bytes, size_t count);

#endif
