#include "CRepldTLS.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RECORD = SSL3_RT_MAX_PLAIN_LENGTH, /* 16 KiB of plaintext */
    SEALED_RECORD = RECORD + 5 + 1 + 16, /* header, content type, tag */
    INPUT = 64 << 10,
    OUTPUT_RECORDS = 4,
    /* Kept free of data: for alerts, and for answers to requests to replace the traffic key. */
    OUTPUT_RESERVE = 4096,
    OUTPUT = OUTPUT_RECORDS * SEALED_RECORD + OUTPUT_RESERVE,
    WIRE_IDENTITY = 2 * REPLD_TLS_IDENTITY_BYTES,
    OFFERS = 4,
};

struct repld_tls_session {
    SSL *ssl;
    /* During the handshake: what is known, and which of it the other side named. */
    const struct repld_tls_key *const *keys;
    size_t key_count;
    const struct repld_tls_key *used;
    const struct repld_tls_key *own; /* of the side that connects */
    unsigned offers; /* names that the other side offered so far */
    unsigned char wire_identity[WIRE_IDENTITY];
    uint8_t identity[REPLD_TLS_IDENTITY_BYTES];
    bool is_failed, is_refused, is_ended, is_proven;
    uint64_t records, records_per_key, key_updates;
    char words[160];
    size_t in_start, in_end, out_start, out_end;
    uint8_t in[INPUT];
    uint8_t out[OUTPUT];
    uint8_t joined[RECORD]; /* the end of a first piece and the start of a second */
};

/* 2^24.5 full records are the limit of AES-GCM; a quarter of that is 64 GiB. */
static const uint64_t standard_records_per_key = UINT64_C(1) << 22;

static SSL_CTX *context;
static BIO_METHOD *buffers;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static int buffers_read(BIO *bio, char *target, int count) {
    struct repld_tls_session *session = BIO_get_data(bio);
    size_t there = session->in_end - session->in_start;
    BIO_clear_retry_flags(bio);
    if (count <= 0) return 0;
    if (there == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = there < (size_t)count ? there : (size_t)count;
    memcpy(target, session->in + session->in_start, taken);
    session->in_start += taken;
    if (session->in_start == session->in_end) session->in_start = session->in_end = 0;
    return (int)taken;
}

static int buffers_write(BIO *bio, const char *source, int count) {
    struct repld_tls_session *session = BIO_get_data(bio);
    size_t room = OUTPUT - session->out_end;
    BIO_clear_retry_flags(bio);
    if (count <= 0) return 0;
    if (room == 0) {
        BIO_set_retry_write(bio);
        return -1;
    }
    size_t taken = room < (size_t)count ? room : (size_t)count;
    memcpy(session->out + session->out_end, source, taken);
    session->out_end += taken;
    return (int)taken;
}

static long buffers_control(BIO *bio, int command, long number, void *pointer) {
    (void)bio, (void)number, (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static void write_identity(const struct repld_tls_key *key, unsigned char text[WIRE_IDENTITY]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t place = 0; place < REPLD_TLS_IDENTITY_BYTES; place++) {
        text[2 * place] = (unsigned char)digits[key->identity[place] >> 4];
        text[2 * place + 1] = (unsigned char)digits[key->identity[place] & 15];
    }
}

/* TLS_AES_128_GCM_SHA256: what the key's hash is taken from. */
static SSL_SESSION *session_of_key(SSL *ssl, const struct repld_tls_key *key) {
    static const unsigned char suite[] = {0x13, 0x01};
    const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, suite);
    SSL_SESSION *session = SSL_SESSION_new();
    if (cipher != NULL && session != NULL && SSL_SESSION_set1_master_key(session, key->psk, sizeof key->psk) == 1 &&
        SSL_SESSION_set_cipher(session, cipher) == 1 && SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1)
        return session;
    SSL_SESSION_free(session);
    return NULL;
}

static int use_key(SSL *ssl, const EVP_MD *hash, const unsigned char **name, size_t *count, SSL_SESSION **found) {
    struct repld_tls_session *session = SSL_get_app_data(ssl);
    *found = NULL;
    *name = NULL;
    *count = 0;
    if (session->own == NULL) return 0;
    /* After a retry request the server has chosen the suite: the key serves one hash only. */
    if (hash != NULL && EVP_MD_get_type(hash) != NID_sha256) return 0;
    *found = session_of_key(ssl, session->own);
    if (*found == NULL) return 0;
    write_identity(session->own, session->wire_identity);
    *name = session->wire_identity;
    *count = WIRE_IDENTITY;
    session->used = session->own;
    return 1;
}

/* The value of a lower-case hexadecimal digit; 16 of anything else. */
static unsigned digit_value(unsigned char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10u : 16u;
}

static int find_key(SSL *ssl, const unsigned char *name, size_t count, SSL_SESSION **found) {
    struct repld_tls_session *session = SSL_get_app_data(ssl);
    uint8_t identity[REPLD_TLS_IDENTITY_BYTES];
    *found = NULL;
    /* Ours offer one. Who offers hundreds wants them to be looked for. */
    if (++session->offers > OFFERS) return 0;
    if (count != WIRE_IDENTITY) return 1;
    for (size_t place = 0; place < sizeof identity; place++) {
        unsigned high = digit_value(name[2 * place]), low = digit_value(name[2 * place + 1]);
        if (high > 15 || low > 15) return 1;
        identity[place] = (uint8_t)(high << 4 | low);
    }
    for (size_t place = 0; place < session->key_count; place++) {
        if (memcmp(session->keys[place]->identity, identity, sizeof identity) != 0) continue;
        *found = session_of_key(ssl, session->keys[place]);
        if (*found == NULL) return 0;
        session->used = session->keys[place];
        return 1;
    }
    /* Without a key there would have to be a certificate, and there is none: the handshake fails. */
    return 1;
}

static void make_context(void) {
    /* What other threads may still use stays when the process ends. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    SSL_CTX *made = SSL_CTX_new(TLS_method());
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "repld buffers");
    bool is_good = made != NULL && method != NULL && BIO_meth_set_read(method, buffers_read) == 1 &&
        BIO_meth_set_write(method, buffers_write) == 1 && BIO_meth_set_ctrl(method, buffers_control) == 1 &&
        SSL_CTX_set_min_proto_version(made, TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_max_proto_version(made, TLS1_3_VERSION) == 1 &&
        SSL_CTX_set_ciphersuites(made, "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256") == 1 &&
        SSL_CTX_set1_groups_list(made, "X25519:P-256") == 1 && SSL_CTX_set_num_tickets(made, 0) == 1 &&
        SSL_CTX_set_max_early_data(made, 0) == 1 && SSL_CTX_set_recv_max_early_data(made, 0) == 1;
    if (is_good) {
        SSL_CTX_set_options(made, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
        SSL_CTX_clear_options(made, SSL_OP_ALLOW_NO_DHE_KEX);
        SSL_CTX_set_session_cache_mode(made, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_psk_use_session_callback(made, use_key);
        SSL_CTX_set_psk_find_session_callback(made, find_key);
        context = made;
        buffers = method;
    } else {
        SSL_CTX_free(made);
        BIO_meth_free(method);
    }
    ERR_clear_error();
}

int repld_tls_derive(const void *secret, size_t count, struct repld_tls_key *key) {
    static const char name_label[] = "repld peer key 1: identity";
    static const char key_label[] = "repld peer key 1: tls13 psk sha256";
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    int result = -1;
    (void)pthread_once(&once, make_context);
    if (HMAC(EVP_sha256(), secret, (int)count, (const unsigned char *)name_label, sizeof name_label - 1, digest, &length) &&
        length == 32) {
        memcpy(key->identity, digest, sizeof key->identity);
        if (HMAC(EVP_sha256(), secret, (int)count, (const unsigned char *)key_label, sizeof key_label - 1, digest, &length) &&
            length == 32) {
            memcpy(key->psk, digest, sizeof key->psk);
            result = 0;
        }
    }
    OPENSSL_cleanse(digest, sizeof digest);
    ERR_clear_error();
    return result;
}

void repld_tls_wipe(void *memory, size_t count) { OPENSSL_cleanse(memory, count); }

static struct repld_tls_session *new_session(void) {
    (void)pthread_once(&once, make_context);
    if (context == NULL) return NULL;
    struct repld_tls_session *session = calloc(1, sizeof *session);
    if (session == NULL) return NULL;
    session->records_per_key = standard_records_per_key;
    session->ssl = SSL_new(context);
    BIO *bio = BIO_new(buffers);
    if (session->ssl == NULL || bio == NULL || SSL_set_app_data(session->ssl, session) != 1) {
        BIO_free(bio);
        SSL_free(session->ssl);
        free(session);
        ERR_clear_error();
        return NULL;
    }
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl, bio, bio);
    return session;
}

struct repld_tls_session *repld_tls_connecting(const struct repld_tls_key *key) {
    struct repld_tls_session *session = new_session();
    if (session == NULL) return NULL;
    session->own = key;
    /* Nobody's certificate is trusted: a server that would rather show one than prove the key is refused. */
    SSL_set_verify(session->ssl, SSL_VERIFY_PEER, NULL);
    SSL_set_connect_state(session->ssl);
    return session;
}

struct repld_tls_session *repld_tls_accepting(const struct repld_tls_key *const *keys, size_t count) {
    struct repld_tls_session *session = new_session();
    if (session == NULL) return NULL;
    session->keys = keys;
    session->key_count = count;
    SSL_set_accept_state(session->ssl);
    return session;
}

void repld_tls_free(struct repld_tls_session *session) {
    if (session == NULL) return;
    SSL_free(session->ssl);
    OPENSSL_cleanse(session, sizeof *session);
    free(session);
}

static void fail(struct repld_tls_session *session, const char *otherwise) {
    unsigned long error = ERR_peek_error();
    const char *words = error != 0 ? ERR_reason_error_string(error) : NULL;
    if (!session->is_failed) (void)snprintf(session->words, sizeof session->words, "%s", words != NULL ? words : otherwise);
    session->is_failed = true;
    ERR_clear_error();
}

/* What the handshake failed of; before the queue of errors is emptied. */
static void judge_refusal(struct repld_tls_session *session) {
    int reason = ERR_GET_REASON(ERR_peek_error());
    bool is_client = session->own != NULL;
    const char *words = NULL;
    if (!is_client && session->used == NULL && (reason == SSL_R_NO_SUITABLE_SIGNATURE_ALGORITHM || reason == SSL_R_NO_SHARED_CIPHER))
        words = "it offers no key that is known here";
    else if (reason == SSL_R_BINDER_DOES_NOT_VERIFY)
        words = "it knows a key's name, but not the key";
    else if (is_client && (reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE || reason == SSL_R_TLSV1_ALERT_DECRYPT_ERROR))
        words = "it does not know this key";
    if (words == NULL) return;
    session->is_refused = true;
    session->is_failed = true;
    (void)snprintf(session->words, sizeof session->words, "%s", words);
}

enum repld_tls_state repld_tls_handshake(struct repld_tls_session *session) {
    if (session->is_failed) return REPLD_TLS_FAILED;
    if (session->is_proven) return REPLD_TLS_DONE;
    int result = SSL_do_handshake(session->ssl);
    if (result != 1) {
        if (SSL_get_error(session->ssl, result) == SSL_ERROR_WANT_READ) return REPLD_TLS_WANTS_INPUT;
        judge_refusal(session);
        fail(session, "the handshake failed");
        return REPLD_TLS_FAILED;
    }
    /* The handshake is over; it counts only if the key carried it. */
    if (SSL_version(session->ssl) != TLS1_3_VERSION || SSL_session_reused(session->ssl) != 1 || session->used == NULL) {
        session->is_refused = true;
        fail(session, "it proved no key");
        return REPLD_TLS_FAILED;
    }
    memcpy(session->identity, session->used->identity, sizeof session->identity);
    session->is_proven = true;
    session->keys = NULL;
    session->key_count = 0;
    session->used = NULL;
    session->own = NULL;
    return REPLD_TLS_DONE;
}

const char *repld_tls_words(const struct repld_tls_session *session) {
    return session->is_failed ? session->words : "no failure";
}

bool repld_tls_is_refused(const struct repld_tls_session *session) { return session->is_refused; }

void repld_tls_identity(const struct repld_tls_session *session, uint8_t identity[REPLD_TLS_IDENTITY_BYTES]) {
    memcpy(identity, session->identity, REPLD_TLS_IDENTITY_BYTES);
}

uint8_t *repld_tls_room(struct repld_tls_session *session, size_t *count) {
    *count = INPUT - session->in_end;
    return session->in + session->in_end;
}

void repld_tls_received(struct repld_tls_session *session, size_t count) { session->in_end += count; }

const uint8_t *repld_tls_output(const struct repld_tls_session *session, size_t *count) {
    *count = session->out_end - session->out_start;
    return session->out + session->out_start;
}

void repld_tls_sent(struct repld_tls_session *session, size_t count) {
    session->out_start += count;
    if (session->out_start == session->out_end) session->out_start = session->out_end = 0;
}

/* One record of at most 16 KiB; there is room for it. */
static bool seal_record(struct repld_tls_session *session, const void *bytes, size_t count) {
    size_t written = 0;
    if (session->records >= session->records_per_key) {
        if (SSL_key_update(session->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return false;
        session->records = 0;
        session->key_updates++;
    }
    session->records++;
    return SSL_write_ex(session->ssl, bytes, count, &written) == 1 && written == count;
}

size_t repld_tls_seal(
    struct repld_tls_session *session,
    const void *first, size_t first_count,
    const void *second, size_t second_count,
    size_t done
) {
    size_t taken = 0;
    if (session->is_failed || !session->is_proven) return 0;
    while (done < first_count + second_count && OUTPUT - session->out_end >= SEALED_RECORD + OUTPUT_RESERVE) {
        const uint8_t *start;
        size_t count;
        if (done >= first_count) {
            start = (const uint8_t *)second + (done - first_count);
            count = first_count + second_count - done;
        } else if (first_count - done >= RECORD || second_count == 0) {
            start = (const uint8_t *)first + done;
            count = first_count - done;
        } else {
            size_t head = first_count - done;
            size_t tail = second_count < RECORD - head ? second_count : RECORD - head;
            memcpy(session->joined, (const uint8_t *)first + done, head);
            memcpy(session->joined + head, second, tail);
            start = session->joined;
            count = head + tail;
        }
        if (count > RECORD) count = RECORD;
        if (!seal_record(session, start, count)) {
            fail(session, "what is to be sent could not be encrypted");
            /* The other side must not take what was sealed before for all of it. */
            return 0;
        }
        done += count;
        taken += count;
    }
    return taken;
}

size_t repld_tls_open(struct repld_tls_session *session, void *memory, size_t count, enum repld_tls_state *state) {
    size_t done = 0;
    while (done < count && !session->is_failed && !session->is_ended) {
        size_t taken = 0;
        int result = SSL_read_ex(session->ssl, (uint8_t *)memory + done, count - done, &taken);
        if (result == 1) {
            done += taken;
            continue;
        }
        switch (SSL_get_error(session->ssl, result)) {
        case SSL_ERROR_WANT_READ:
            *state = REPLD_TLS_WANTS_INPUT;
            return done;
        case SSL_ERROR_ZERO_RETURN:
            session->is_ended = true;
            break;
        case SSL_ERROR_WANT_WRITE:
            fail(session, "it asks for new keys more often than they can be sent");
            break;
        default:
            fail(session, "what was received could not be decrypted");
        }
    }
    *state = session->is_failed ? REPLD_TLS_FAILED : REPLD_TLS_DONE;
    return done;
}

void repld_tls_goodbye(struct repld_tls_session *session) {
    if (session->is_failed || !session->is_proven) return;
    (void)SSL_shutdown(session->ssl);
    ERR_clear_error();
}

void repld_tls_set_records_per_key(struct repld_tls_session *session, uint64_t count) { session->records_per_key = count; }

uint64_t repld_tls_key_updates(const struct repld_tls_session *session) { return session->key_updates; }
