/* The twin of vsync.seal.cipher, over OpenSSL: a whole train in one call, into one buffer. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <openssl/evp.h>
#include <stdint.h>
#include <string.h>

enum {
    PREFIX_BYTES = 28,
    COUNTER_BYTES = 8,
    ENVELOPE_BYTES = PREFIX_BYTES + COUNTER_BYTES,
    TAG_BYTES = 16,
    OVERHEAD_BYTES = ENVELOPE_BYTES + TAG_BYTES,
    NONCE_BYTES = 12,
    KEY_BYTES = 32,
    PACKET_BYTES_MAX = 1 << 24 /* OpenSSL counts in int; no packet is nearly as long */
};

typedef struct {
    PyObject_HEAD
    EVP_CIPHER_CTX *sealing, *opening;
} Cipher;

static void put_envelope(unsigned char *to, const unsigned char *prefix, uint64_t counter)
{
    memcpy(to, prefix, PREFIX_BYTES);
    for (int at = COUNTER_BYTES - 1; at >= 0; at--, counter >>= 8)
        to[PREFIX_BYTES + at] = (unsigned char)counter;
}

static void put_nonce(unsigned char *nonce, const unsigned char *envelope)
{
    memset(nonce, 0, NONCE_BYTES - COUNTER_BYTES);
    memcpy(nonce + NONCE_BYTES - COUNTER_BYTES, envelope + PREFIX_BYTES, COUNTER_BYTES);
}

/* Seals a packet behind the envelope that stands at `to`; whether that went well. */
static int seal_at(EVP_CIPHER_CTX *context, unsigned char *to, const unsigned char *packet,
                   int bytes)
{
    unsigned char nonce[NONCE_BYTES], *text = to + ENVELOPE_BYTES;
    int done = 0;

    put_nonce(nonce, to);
    return EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce) == 1
           && EVP_EncryptUpdate(context, NULL, &done, to, ENVELOPE_BYTES) == 1
           && (bytes == 0 || (EVP_EncryptUpdate(context, text, &done, packet, bytes) == 1
                              && done == bytes))
           && EVP_EncryptFinal_ex(context, text + bytes, &done) == 1
           && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, text + bytes) == 1;
}

/* Opens a sealed packet of OVERHEAD_BYTES at least; whether it is genuine. */
static int open_at(EVP_CIPHER_CTX *context, unsigned char *to, const unsigned char *packet,
                   int bytes)
{
    unsigned char nonce[NONCE_BYTES], tag[TAG_BYTES];
    const unsigned char *text = packet + ENVELOPE_BYTES;
    int text_bytes = bytes - OVERHEAD_BYTES, done = 0;

    put_nonce(nonce, packet);
    memcpy(tag, text + text_bytes, TAG_BYTES);
    return EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce) == 1
           && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1
           && EVP_DecryptUpdate(context, NULL, &done, packet, ENVELOPE_BYTES) == 1
           && (text_bytes == 0 || (EVP_DecryptUpdate(context, to, &done, text, text_bytes) == 1
                                   && done == text_bytes))
           && EVP_DecryptFinal_ex(context, to + text_bytes, &done) == 1;
}

static PyObject *refuse_to_seal(PyObject *made)
{
    Py_XDECREF(made);
    PyErr_SetString(PyExc_RuntimeError, "OpenSSL does not seal here");
    return NULL;
}

/* Whether packets may be sealed with that prefix, counted from `number` on; sets an error. */
static int read_start(const Py_buffer *prefix, PyObject *number, Py_ssize_t count,
                      uint64_t *first)
{
    if (prefix->len != PREFIX_BYTES) {
        PyErr_Format(PyExc_ValueError, "a prefix has %d bytes", PREFIX_BYTES);
        return 0;
    }
    *first = PyLong_AsUnsignedLongLong(number);
    if (*first == (uint64_t)-1 && PyErr_Occurred())
        return 0;
    if (*first > UINT64_MAX - (uint64_t)count) {
        PyErr_SetString(PyExc_OverflowError, "a counter has 64 bits");
        return 0;
    }
    return 1;
}

static int start(EVP_CIPHER_CTX *context, const unsigned char *key, int seals)
{
    return context != NULL
           && EVP_CipherInit_ex(context, EVP_aes_256_gcm(), NULL, key, NULL, seals) == 1;
}

static PyObject *cipher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Py_buffer key;
    Cipher *self;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "y*:Cipher", &key))
        return NULL;
    self = (Cipher *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->sealing = EVP_CIPHER_CTX_new();
        self->opening = EVP_CIPHER_CTX_new();
        if (key.len != KEY_BYTES) {
            PyErr_Format(PyExc_ValueError, "a key has %d bytes", KEY_BYTES);
            Py_CLEAR(self);
        } else if (!start(self->sealing, key.buf, 1) || !start(self->opening, key.buf, 0)) {
            PyErr_SetString(PyExc_RuntimeError, "OpenSSL has no AES-256-GCM here");
            Py_CLEAR(self);
        }
    }
    PyBuffer_Release(&key);
    return (PyObject *)self;
}

static void cipher_dealloc(Cipher *self)
{
    PyTypeObject *type = Py_TYPE(self);

    EVP_CIPHER_CTX_free(self->sealing);
    EVP_CIPHER_CTX_free(self->opening);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

/* Packets one behind the other, of which the last may be shorter. */
typedef struct {
    Py_buffer prefix, packets;
    Py_ssize_t packet_bytes, count;
    uint64_t first;
} Train;

static void release_train(Train *train)
{
    PyBuffer_Release(&train->prefix);
    PyBuffer_Release(&train->packets);
}

/* Reads what a train is given by, as `format` names it; sets an error, and then holds nothing. */
static int read_train(PyObject *args, const char *format, Train *train)
{
    PyObject *number;

    if (!PyArg_ParseTuple(args, format, &train->prefix, &number, &train->packets,
                          &train->packet_bytes))
        return 0;
    if (train->packet_bytes < 1 || train->packet_bytes > PACKET_BYTES_MAX
        || train->packets.len < 1) {
        PyErr_SetString(PyExc_ValueError, "these are no packets");
    } else {
        train->count = (train->packets.len - 1) / train->packet_bytes + 1;
        if (read_start(&train->prefix, number, train->count, &train->first))
            return 1;
    }
    release_train(train);
    return 0;
}

/* How long the packet is that begins at `from`. */
static Py_ssize_t bytes_at(const Train *train, const unsigned char *from)
{
    Py_ssize_t left = (const unsigned char *)train->packets.buf + train->packets.len - from;

    return left < train->packet_bytes ? left : train->packet_bytes;
}

static PyObject *cipher_seal_train(Cipher *self, PyObject *args)
{
    Train train;
    PyObject *sealed;

    if (!read_train(args, "y*Oy*n:seal_train", &train))
        return NULL;
    sealed = PyBytes_FromStringAndSize(NULL, train.packets.len + train.count * OVERHEAD_BYTES);
    if (sealed != NULL) {
        unsigned char *to = (unsigned char *)PyBytes_AS_STRING(sealed);
        const unsigned char *from = train.packets.buf;
        for (Py_ssize_t at = 0; at < train.count; at++) {
            Py_ssize_t bytes = bytes_at(&train, from);
            put_envelope(to, train.prefix.buf, train.first + (uint64_t)at);
            if (!seal_at(self->sealing, to, from, (int)bytes)) {
                sealed = refuse_to_seal(sealed);
                break;
            }
            from += bytes;
            to += bytes + OVERHEAD_BYTES;
        }
    }
    release_train(&train);
    return sealed;
}

static PyObject *cipher_open_train(Cipher *self, PyObject *args)
{
    Train train;
    PyObject *opened = NULL;
    Py_ssize_t last;
    int genuine = 0;

    if (!read_train(args, "y*Oy*n:open_train", &train))
        return NULL;
    last = train.packets.len - (train.count - 1) * train.packet_bytes;
    if (train.packet_bytes > OVERHEAD_BYTES && last > OVERHEAD_BYTES) {
        opened
            = PyBytes_FromStringAndSize(NULL, train.packets.len - train.count * OVERHEAD_BYTES);
        if (opened == NULL)
            goto done;
        unsigned char *to = (unsigned char *)PyBytes_AS_STRING(opened);
        const unsigned char *from = train.packets.buf;
        genuine = 1;
        for (Py_ssize_t at = 0; genuine && at < train.count; at++) {
            unsigned char envelope[ENVELOPE_BYTES];
            Py_ssize_t bytes = bytes_at(&train, from);
            put_envelope(envelope, train.prefix.buf, train.first + (uint64_t)at);
            genuine = memcmp(envelope, from, ENVELOPE_BYTES) == 0
                      && open_at(self->opening, to, from, (int)bytes);
            from += bytes;
            to += bytes - OVERHEAD_BYTES;
        }
    }
    if (!genuine) {
        Py_XDECREF(opened);
        opened = Py_NewRef(Py_None);
    }
done:
    release_train(&train);
    return opened;
}

static PyObject *cipher_seal(Cipher *self, PyObject *args)
{
    Py_buffer prefix, packet;
    PyObject *number, *sealed = NULL;
    uint64_t counter;

    if (!PyArg_ParseTuple(args, "y*Oy*:seal", &prefix, &number, &packet))
        return NULL;
    if (packet.len > PACKET_BYTES_MAX) {
        PyErr_SetString(PyExc_ValueError, "no packet is that long");
    } else if (read_start(&prefix, number, 1, &counter)) {
        sealed = PyBytes_FromStringAndSize(NULL, packet.len + OVERHEAD_BYTES);
        if (sealed != NULL) {
            unsigned char *to = (unsigned char *)PyBytes_AS_STRING(sealed);
            put_envelope(to, prefix.buf, counter);
            if (!seal_at(self->sealing, to, packet.buf, (int)packet.len))
                sealed = refuse_to_seal(sealed);
        }
    }
    PyBuffer_Release(&prefix);
    PyBuffer_Release(&packet);
    return sealed;
}

static PyObject *cipher_open(Cipher *self, PyObject *given)
{
    Py_buffer packet;
    PyObject *opened = NULL;

    if (PyObject_GetBuffer(given, &packet, PyBUF_SIMPLE) < 0)
        return NULL;
    if (packet.len < OVERHEAD_BYTES || packet.len > PACKET_BYTES_MAX) {
        opened = Py_NewRef(Py_None);
    } else {
        opened = PyBytes_FromStringAndSize(NULL, packet.len - OVERHEAD_BYTES);
        if (opened != NULL
            && !open_at(self->opening, (unsigned char *)PyBytes_AS_STRING(opened), packet.buf,
                        (int)packet.len)) {
            Py_DECREF(opened);
            opened = Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&packet);
    return opened;
}

static PyMethodDef cipher_methods[] = {
    {"seal", (PyCFunction)cipher_seal, METH_VARARGS, "A packet, sealed, behind its envelope."},
    {"open", (PyCFunction)cipher_open, METH_O, "What is within a packet; None if not genuine."},
    {"seal_train", (PyCFunction)cipher_seal_train, METH_VARARGS, "Packets, each sealed."},
    {"open_train", (PyCFunction)cipher_open_train, METH_VARARGS,
     "What is within sealed packets; None if one is not genuine, or not in its place."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot cipher_slots[] = {
    {Py_tp_doc, "Seals and opens what belongs to one stream."},
    {Py_tp_new, cipher_new},
    {Py_tp_dealloc, cipher_dealloc},
    {Py_tp_methods, cipher_methods},
    {0, NULL},
};

static PyType_Spec cipher_spec = {
    "vsync.seal.cipher.Cipher", sizeof(Cipher), 0, Py_TPFLAGS_DEFAULT, cipher_slots,
};

static int fill(PyObject *made)
{
    PyObject *type = PyType_FromSpec(&cipher_spec);
    int failed = type == NULL || PyModule_AddObjectRef(made, "Cipher", type) < 0
                 || PyModule_AddIntConstant(made, "OVERHEAD_BYTES", OVERHEAD_BYTES) < 0;

    Py_XDECREF(type);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, fill}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.seal.cipher", NULL, 0, NULL, slots, NULL, NULL, NULL,
};

/* In two phases, so that it can be seen whether it loads before anyone has it. */
PyMODINIT_FUNC PyInit_cipher(void) { return PyModuleDef_Init(&module); }
