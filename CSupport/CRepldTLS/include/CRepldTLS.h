/* TLS 1.3 between two hosts that share a key, over OpenSSL 3: much of what OpenSSL offers is a macro, and a session here does
   no input or output of its own.

   The protocol: RFC 8446 with an external pre-shared key and a fresh (EC)DHE exchange (psk_dhe_ke; X25519 or P-256), so that
   who learns the key later cannot read what was recorded. TLS_AES_128_GCM_SHA256 or TLS_CHACHA20_POLY1305_SHA256: a
   pre-shared key belongs to one hash. No certificates, tickets, resumption, early data or renegotiation. A side that is not
   given proof of the key fails; there is nothing to fall back to.

   A session has two buffers of fixed size, for what was received and for what is to be sent. It belongs to one thread at a
   time. */
#ifndef C_REPLD_TLS_H
#define C_REPLD_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REPLD_TLS_IDENTITY_BYTES = 16, REPLD_TLS_PSK_BYTES = 32 };

/* What is derived from a secret: the name by which the other side finds it, and the key of the handshake. */
struct repld_tls_key {
    uint8_t identity[REPLD_TLS_IDENTITY_BYTES];
    uint8_t psk[REPLD_TLS_PSK_BYTES];
};

/* HMAC-SHA-256 with the secret over a label each, so that neither tells the other, nor the secret. 0, or -1 when OpenSSL
   cannot. */
int repld_tls_derive(const void *secret, size_t count, struct repld_tls_key *key);

/* Overwrites memory in a way that is not optimised away. */
void repld_tls_wipe(void *memory, size_t count);

struct repld_tls_session;

/* A session for the side that connects, and for the one that is connected to and knows several keys. NULL when OpenSSL or
   memory says no. The keys stay where they are until the handshake has ended. */
struct repld_tls_session *repld_tls_connecting(const struct repld_tls_key *key);
struct repld_tls_session *repld_tls_accepting(const struct repld_tls_key *const *keys, size_t count);
/* Frees a session and wipes its buffers. */
void repld_tls_free(struct repld_tls_session *session);

enum repld_tls_state { REPLD_TLS_FAILED = -1, REPLD_TLS_WANTS_INPUT = 0, REPLD_TLS_DONE = 1 };

/* Goes on with the handshake as far as what was received carries it; there may be output afterwards, also after a failure
   (the alert). DONE: the other side has proven that it has the key, and all that is sent from here on is encrypted. */
enum repld_tls_state repld_tls_handshake(struct repld_tls_session *session);
/* Why the session failed, in words; never NULL. */
const char *repld_tls_words(const struct repld_tls_session *session);
/* Whether the handshake failed because of the keys: an identity that is not known, a proof that is wrong, or the other side's
   refusal. */
bool repld_tls_is_refused(const struct repld_tls_session *session);
/* Identity of the key that both sides have; all 0 before the handshake is done. */
void repld_tls_identity(const struct repld_tls_session *session, uint8_t identity[REPLD_TLS_IDENTITY_BYTES]);

/* Where the next ciphertext from the other side goes. Never empty as long as `open` is called until it wants input. */
uint8_t *repld_tls_room(struct repld_tls_session *session, size_t *count);
void repld_tls_received(struct repld_tls_session *session, size_t count);
/* What is to be sent; stays where it is until `sent` says that it went. */
const uint8_t *repld_tls_output(const struct repld_tls_session *session, size_t *count);
void repld_tls_sent(struct repld_tls_session *session, size_t count);

/* Encrypts from two pieces that follow each other, from `done` on, as much as there is room for; returns how much that was. 0
   with no output left means that the session failed. Short first pieces share a record with the start of the second. */
size_t repld_tls_seal(
    struct repld_tls_session *session,
    const void *first, size_t first_count,
    const void *second, size_t second_count,
    size_t done
);

/* Decrypts into `memory` what was received; returns how much. With 0, `*state` says why: WANTS_INPUT, DONE (the other side
   ended its stream), or FAILED. What was decrypted before a failure comes first. */
size_t repld_tls_open(struct repld_tls_session *session, void *memory, size_t count, enum repld_tls_state *state);

/* Tells the other side that the stream ends here: adds that to the output. */
void repld_tls_goodbye(struct repld_tls_session *session);

/* After so many records sent, this side's traffic key is replaced (RFC 8446, 5.5). For tests; the standard is 2^22. */
void repld_tls_set_records_per_key(struct repld_tls_session *session, uint64_t count);
/* How often this side replaced its traffic key. */
uint64_t repld_tls_key_updates(const struct repld_tls_session *session);

#endif
