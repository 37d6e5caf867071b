/* AES-256-GCM of OpenSSL, for sealing.c; see there what each of these is. */

#include <openssl/evp.h>

#define LIBRARY "OpenSSL"

typedef struct {
    EVP_CIPHER_CTX *sealing, *opening;
} Gcm;

static int gcm_prepare(void) { return 1; }

static void gcm_end(Gcm *gcm)
{
    EVP_CIPHER_CTX_free(gcm->sealing);
    EVP_CIPHER_CTX_free(gcm->opening);
}

static int gcm_start(Gcm *gcm, const unsigned char *key)
{
    gcm->sealing = EVP_CIPHER_CTX_new();
    gcm->opening = EVP_CIPHER_CTX_new();
    return gcm->sealing != NULL && gcm->opening != NULL
           && EVP_EncryptInit_ex(gcm->sealing, EVP_aes_256_gcm(), NULL, key, NULL) == 1
           && EVP_DecryptInit_ex(gcm->opening, EVP_aes_256_gcm(), NULL, key, NULL) == 1;
}

static int gcm_seal(Gcm *gcm, const unsigned char *nonce, const unsigned char *head,
                    int head_bytes, const unsigned char *text, int bytes, unsigned char *to)
{
    int done = 0;

    return EVP_EncryptInit_ex(gcm->sealing, NULL, NULL, NULL, nonce) == 1
           && EVP_EncryptUpdate(gcm->sealing, NULL, &done, head, head_bytes) == 1
           && (bytes == 0 || (EVP_EncryptUpdate(gcm->sealing, to, &done, text, bytes) == 1
                              && done == bytes))
           && EVP_EncryptFinal_ex(gcm->sealing, to + bytes, &done) == 1
           && EVP_CIPHER_CTX_ctrl(gcm->sealing, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, to + bytes) == 1;
}

static int gcm_open(Gcm *gcm, const unsigned char *nonce, const unsigned char *head,
                    int head_bytes, const unsigned char *text, int bytes, unsigned char *to)
{
    unsigned char tag[TAG_BYTES];
    int done = 0;

    memcpy(tag, text + bytes, TAG_BYTES);
    return EVP_DecryptInit_ex(gcm->opening, NULL, NULL, NULL, nonce) == 1
           && EVP_CIPHER_CTX_ctrl(gcm->opening, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1
           && EVP_DecryptUpdate(gcm->opening, NULL, &done, head, head_bytes) == 1
           && (bytes == 0 || (EVP_DecryptUpdate(gcm->opening, to, &done, text, bytes) == 1
                              && done == bytes))
           && EVP_DecryptFinal_ex(gcm->opening, to + bytes, &done) == 1;
}
