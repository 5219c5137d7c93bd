#include <crypt.h>

/* The size of struct crypt_data, which holds an array too large for Swift to import. */
enum { REPLD_CRYPT_DATA_BYTE_COUNT = sizeof(struct crypt_data) };
