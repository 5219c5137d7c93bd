/* Linux calls and constants that Swift's Glibc module lacks, because it is built without _GNU_SOURCE. */
#ifndef C_REPLD_LINUX_H
#define C_REPLD_LINUX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#endif
