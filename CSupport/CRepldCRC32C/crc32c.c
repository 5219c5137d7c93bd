#include "CRepldCRC32C.h"

#include <string.h>

static uint32_t table[8][256];

__attribute__((constructor)) static void make_table(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (0x82F63B78u & (0u - (value & 1)));
        table[0][byte] = value;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int slice = 1; slice < 8; slice++)
            table[slice][byte] = (table[slice - 1][byte] >> 8) ^ table[0][table[slice - 1][byte] & 0xFF];
}

static uint64_t load_little_endian(const unsigned char *bytes) {
    uint64_t value;
    memcpy(&value, bytes, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    return value;
}

uint32_t repld_crc32c_table(uint32_t checksum, const void *start, size_t count) {
    const unsigned char *bytes = start;
    uint32_t crc = ~checksum;
    for (; count >= 8; bytes += 8, count -= 8) {
        uint64_t word = load_little_endian(bytes) ^ crc;
        crc = table[7][word & 0xFF] ^ table[6][(word >> 8) & 0xFF] ^ table[5][(word >> 16) & 0xFF]
            ^ table[4][(word >> 24) & 0xFF] ^ table[3][(word >> 32) & 0xFF] ^ table[2][(word >> 40) & 0xFF]
            ^ table[1][(word >> 48) & 0xFF] ^ table[0][word >> 56];
    }
    for (; count > 0; bytes++, count--) crc = (crc >> 8) ^ table[0][(crc ^ *bytes) & 0xFF];
    return ~crc;
}

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t crc32c_instruction(
    uint32_t checksum, const void *start, size_t count) {
    const unsigned char *bytes = start;
    uint64_t crc = (uint32_t)~checksum;
    for (; count >= 8; bytes += 8, count -= 8) crc = _mm_crc32_u64(crc, load_little_endian(bytes));
    for (; count > 0; bytes++, count--) crc = _mm_crc32_u8((uint32_t)crc, *bytes);
    return ~(uint32_t)crc;
}

uint32_t repld_crc32c(uint32_t checksum, const void *bytes, size_t count) {
    if (__builtin_cpu_supports("sse4.2")) return crc32c_instruction(checksum, bytes, count);
    return repld_crc32c_table(checksum, bytes, count);
}
#else
uint32_t repld_crc32c(uint32_t checksum, const void *bytes, size_t count) {
    return repld_crc32c_table(checksum, bytes, count);
}
#endif
