/* The twin of vsync.seal.cipher: a whole train in one call, into one buffer.

   It is built once for each of two libraries that have AES-GCM, of which the better one that loads
   is used: IPsec-MB, if IPSEC_MB is defined, or OpenSSL. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
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

/* What is in either of them: LIBRARY, its name; Gcm, a key, made ready by gcm_start and ended by
   gcm_end, which takes one of zeros too; gcm_prepare, before anything else; gcm_seal puts the
   sealed text and its tag to `to`, gcm_open the text, of which the tag comes behind. All tell
   whether they went well; gcm_open if it is genuine. */
#ifdef IPSEC_MB
#include "gcm_ipsec_mb.h"
#else
#include "gcm_openssl.h"
#endif

typedef struct {
    PyObject_HEAD
    Gcm gcm;
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
static int seal_at(Gcm *gcm, unsigned char *to, const unsigned char *packet, int bytes)
{
    unsigned char nonce[NONCE_BYTES];

    put_nonce(nonce, to);
    return gcm_seal(gcm, nonce, to, ENVELOPE_BYTES, packet, bytes, to + ENVELOPE_BYTES);
}

/* Opens a sealed packet of OVERHEAD_BYTES at least; whether it is genuine. */
static int open_at(Gcm *gcm, unsigned char *to, const unsigned char *packet, int bytes)
{
    unsigned char nonce[NONCE_BYTES];

    put_nonce(nonce, packet);
    return gcm_open(gcm, nonce, packet, ENVELOPE_BYTES, packet + ENVELOPE_BYTES,
                    bytes - OVERHEAD_BYTES, to);
}

/* Whether the library does what it should, by test case 14 of McGrew and Viega's GCM (2005): all
   of it is zero. One that is not as its headers said must not be used. */
static int library_seals(void)
{
    static const unsigned char zeros[KEY_BYTES];
    static const unsigned char expected[16 + TAG_BYTES]
        = "\xce\xa7\x40\x3d\x4d\x60\x6b\x6e\x07\x4e\xc5\xd3\xba\xf3\x9d\x18"
          "\xd0\xd1\xc8\xa7\x99\x99\x6b\xf0\x26\x5b\x98\xb5\xd4\x8a\xb9\x19";
    unsigned char sealed[sizeof expected] = {0}, opened[16];
    Gcm gcm = {0};
    int good = gcm_prepare() && gcm_start(&gcm, zeros)
               && gcm_seal(&gcm, zeros, zeros, 0, zeros, sizeof opened, sealed)
               && memcmp(sealed, expected, sizeof expected) == 0
               && gcm_open(&gcm, zeros, zeros, 0, sealed, sizeof opened, opened)
               && memcmp(opened, zeros, sizeof opened) == 0;

    sealed[0] ^= 1;
    good = good && !gcm_open(&gcm, zeros, zeros, 0, sealed, sizeof opened, opened);
    gcm_end(&gcm);
    return good;
}

static PyObject *refuse_to_seal(PyObject *made)
{
    Py_XDECREF(made);
    PyErr_SetString(PyExc_RuntimeError, LIBRARY " does not seal here");
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

static PyObject *cipher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Py_buffer key;
    Cipher *self;

    (void)kwargs;
    if (!PyArg_ParseTuple(args, "y*:Cipher", &key))
        return NULL;
    self = (Cipher *)type->tp_alloc(type, 0);
    if (self != NULL) {
        if (key.len != KEY_BYTES) {
            PyErr_Format(PyExc_ValueError, "a key has %d bytes", KEY_BYTES);
            Py_CLEAR(self);
        } else if (!gcm_start(&self->gcm, key.buf)) {
            PyErr_SetString(PyExc_RuntimeError, LIBRARY " takes no key here");
            Py_CLEAR(self);
        }
    }
    PyBuffer_Release(&key);
    return (PyObject *)self;
}

static void cipher_dealloc(Cipher *self)
{
    PyTypeObject *type = Py_TYPE(self);

    gcm_end(&self->gcm);
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
            if (!seal_at(&self->gcm, to, from, (int)bytes)) {
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
                      && open_at(&self->gcm, to, from, (int)bytes);
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
            if (!seal_at(&self->gcm, to, packet.buf, (int)packet.len))
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
            && !open_at(&self->gcm, (unsigned char *)PyBytes_AS_STRING(opened), packet.buf,
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
    PyObject *type;
    int failed;

    if (!library_seals()) {
        PyErr_SetString(PyExc_ImportError, LIBRARY " has no AES-256-GCM here");
        return -1;
    }
    type = PyType_FromSpec(&cipher_spec);
    failed = type == NULL || PyModule_AddObjectRef(made, "Cipher", type) < 0
             || PyModule_AddStringConstant(made, "LIBRARY", LIBRARY) < 0
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
