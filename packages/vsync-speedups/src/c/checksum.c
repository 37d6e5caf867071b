/* The twin of vsync.checksum: CRC-32 by carry-less multiplication, with 128-bit registers alone.
 *
 * isal's is faster still in itself, but uses wide vector registers and does not give them back
 * (vzeroupper): whatever runs next is slower then, by more than the checksum costs.
 *
 * Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel,
 * 2009: the constants are those of its section 8, for the reflected polynomial 0xEDB88320.
 */

#include "content.h"
#include <immintrin.h>
#include <stdint.h>

#define FOLDED_AT_ONCE 64

static PyTypeObject *content_type;
static uint32_t table[256];

static void fill_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t rest = byte;
        for (int bit = 0; bit < 8; bit++)
            rest = rest & 1 ? rest >> 1 ^ 0xEDB88320u : rest >> 1;
        table[byte] = rest;
    }
}

static uint32_t by_bytes(uint32_t rest, const unsigned char *data, Py_ssize_t bytes)
{
    while (bytes-- > 0)
        rest = rest >> 8 ^ table[(rest ^ *data++) & 0xff];
    return rest;
}

/* Moves what is folded so far over the distance that *by* is for, and adds what stands there. */
#define FOLD(sum, by, next)                                                                        \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(sum, by, 0x00),                               \
                                _mm_clmulepi64_si128(sum, by, 0x11)),                              \
                  next)
#define AT(place) _mm_loadu_si128((const __m128i *)(data + (place)))

/* Where so many bytes stand in one piece: on the way, or in *apart*, where they are put together. */
static const unsigned char *in_one_piece(struct way *way, unsigned char *apart, Py_ssize_t bytes)
{
    const unsigned char *data = (const unsigned char *)way->at;

    if (way->here >= bytes) {
        step(way, bytes);
        return data;
    }
    walk(way, (char *)apart, bytes);
    return apart;
}

/* Of a multiple of 16 bytes, at least 64, all of them on the way. */
__attribute__((target("pclmul,sse4.1"))) static uint32_t folded(uint32_t rest, struct way *way,
                                                                Py_ssize_t bytes)
{
    const __m128i by_64 = _mm_set_epi64x(0x1c6e41596, 0x154442bd4);
    const __m128i by_16 = _mm_set_epi64x(0x0ccaa009e, 0x1751997d0);
    const __m128i by_4 = _mm_set_epi64x(0, 0x163cd6124);
    const __m128i barrett = _mm_set_epi64x(0x1f7011641, 0x1db710641);
    const __m128i low = _mm_setr_epi32(-1, 0, -1, 0);
    unsigned char apart[FOLDED_AT_ONCE];
    const unsigned char *data = in_one_piece(way, apart, FOLDED_AT_ONCE);
    __m128i one = _mm_xor_si128(AT(0), _mm_cvtsi32_si128((int)rest));
    __m128i two = AT(16), three = AT(32), four = AT(48), quotient;

    bytes -= FOLDED_AT_ONCE;
    while (bytes >= FOLDED_AT_ONCE) {
        Py_ssize_t now = standing_here(way, bytes) & ~(Py_ssize_t)(FOLDED_AT_ONCE - 1);
        if (now == 0)
            now = FOLDED_AT_ONCE;
        data = in_one_piece(way, apart, now);
        bytes -= now;
        for (; now > 0; now -= FOLDED_AT_ONCE, data += FOLDED_AT_ONCE) {
            one = FOLD(one, by_64, AT(0));
            two = FOLD(two, by_64, AT(16));
            three = FOLD(three, by_64, AT(32));
            four = FOLD(four, by_64, AT(48));
        }
    }
    one = FOLD(one, by_16, two);
    one = FOLD(one, by_16, three);
    one = FOLD(one, by_16, four);
    for (; bytes > 0; bytes -= 16) {
        data = in_one_piece(way, apart, 16);
        one = FOLD(one, by_16, AT(0));
    }
    /* 128 bits to 96, to 64, and what is left of them by Barrett's way. */
    one = _mm_xor_si128(_mm_srli_si128(one, 8), _mm_clmulepi64_si128(one, by_16, 0x10));
    one = _mm_xor_si128(_mm_srli_si128(one, 4),
                        _mm_clmulepi64_si128(_mm_and_si128(one, low), by_4, 0x00));
    quotient = _mm_clmulepi64_si128(_mm_and_si128(one, low), barrett, 0x10);
    quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low), barrett, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(one, quotient), 1);
}

static PyObject *crc32(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    struct way way;
    struct held held;
    uint32_t rest = 0;

    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "crc32 takes data, and a checksum to go on from");
        return NULL;
    }
    if (count == 2) {
        rest = (uint32_t)PyLong_AsUnsignedLongMask(args[1]);
        if (rest == (uint32_t)-1 && PyErr_Occurred())
            return NULL;
    }
    if (set_out(&way, &held, args[0], content_type) < 0)
        return NULL;
    rest = ~rest;
    if (way.left >= FOLDED_AT_ONCE)
        rest = folded(rest, &way, way.left & ~(Py_ssize_t)15);
    while (way.left > 0) {
        Py_ssize_t now = standing_here(&way, way.left);
        rest = by_bytes(rest, (const unsigned char *)way.at, now);
        step(&way, now);
    }
    rest = ~rest;
    arrive(&held);
    return PyLong_FromUnsignedLong(rest);
}

static PyMethodDef methods[] = {
    {"crc32", (PyCFunction)(void (*)(void))crc32, METH_FASTCALL,
     "The CRC-32 of data, as zlib's; from another on that it goes on from."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.checksum", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

/* On a processor without the instructions, zlib's function takes the place of this one. */
static int use_zlib(PyObject *made)
{
    PyObject *zlib = PyImport_ImportModule("zlib"), *function = NULL;
    int failed;

    if (zlib != NULL)
        function = PyObject_GetAttrString(zlib, "crc32");
    failed = function == NULL || PyObject_SetAttrString(made, "crc32", function) < 0;
    Py_XDECREF(function);
    Py_XDECREF(zlib);
    return failed ? -1 : 0;
}

PyMODINIT_FUNC PyInit_checksum(void)
{
    PyObject *made;

    fill_table();
    Py_XSETREF(content_type, import_content_type());
    if (content_type == NULL)
        return NULL;
    made = PyModule_Create(&module);
    if (made != NULL && !(__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1")) &&
        use_zlib(made) < 0)
        Py_CLEAR(made);
    return made;
}
