/* The twin of vsync.copying: a frame's content into packets and out of them, in one pass. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

/* Copies the next bytes of what stands in two buffers, one behind the other. */
struct source {
    const char *begin, *rest;
    Py_ssize_t begin_left, rest_left;
};

static void take(struct source *source, char *to, Py_ssize_t bytes)
{
    Py_ssize_t now = bytes < source->begin_left ? bytes : source->begin_left;

    memcpy(to, source->begin, now);
    source->begin += now;
    source->begin_left -= now;
    memcpy(to + now, source->rest, bytes - now);
    source->rest += bytes - now;
    source->rest_left -= bytes - now;
}

static PyObject *packets_of(PyObject *self, PyObject *args)
{
    Py_buffer head, begin, rest;
    PyObject *given, *numbers = NULL, *packets = NULL;
    Py_ssize_t size, count, at, content, number_bytes = 0;

    if (!PyArg_ParseTuple(args, "y*Oy*y*n:packets_of", &head, &given, &begin, &rest, &size))
        return NULL;
    numbers = PySequence_Fast(given, "numbers are a sequence");
    if (numbers == NULL)
        goto done;
    count = PySequence_Fast_GET_SIZE(numbers);
    content = begin.len + rest.len;
    for (at = 0; at < count; at++) {
        PyObject *number = PySequence_Fast_GET_ITEM(numbers, at);
        if (!PyBytes_Check(number)) {
            PyErr_SetString(PyExc_TypeError, "a number is bytes");
            goto done;
        }
        number_bytes += PyBytes_GET_SIZE(number);
    }
    if (size < 1 || count != content / size + (content % size != 0)) {
        PyErr_SetString(PyExc_ValueError, "there are not as many numbers as packets");
        goto done;
    }
    packets = PyBytes_FromStringAndSize(NULL, count * head.len + number_bytes + content);
    if (packets != NULL) {
        struct source source = {begin.buf, rest.buf, begin.len, rest.len};
        char *to = PyBytes_AS_STRING(packets);
        for (at = 0; at < count; at++) {
            PyObject *number = PySequence_Fast_GET_ITEM(numbers, at);
            Py_ssize_t bytes = content < size ? content : size;
            memcpy(to, head.buf, head.len);
            to += head.len;
            memcpy(to, PyBytes_AS_STRING(number), PyBytes_GET_SIZE(number));
            to += PyBytes_GET_SIZE(number);
            take(&source, to, bytes);
            to += bytes;
            content -= bytes;
        }
    }
done:
    Py_XDECREF(numbers);
    PyBuffer_Release(&head);
    PyBuffer_Release(&begin);
    PyBuffer_Release(&rest);
    return packets;
}

static PyObject *content_of(PyObject *self, PyObject *args)
{
    Py_buffer packets;
    PyObject *content = NULL;
    Py_ssize_t packet_bytes, head_bytes;

    if (!PyArg_ParseTuple(args, "y*nn:content_of", &packets, &packet_bytes, &head_bytes))
        return NULL;
    if (head_bytes < 0 || packet_bytes <= head_bytes) {
        PyErr_SetString(PyExc_ValueError, "a packet is longer than its head");
    } else {
        Py_ssize_t whole = packets.len / packet_bytes, last = packets.len % packet_bytes;
        Py_ssize_t each = packet_bytes - head_bytes;
        last = last > head_bytes ? last - head_bytes : 0;
        content = PyBytes_FromStringAndSize(NULL, whole * each + last);
        if (content != NULL) {
            char *to = PyBytes_AS_STRING(content);
            const char *from = (const char *)packets.buf + head_bytes;
            for (; whole > 0; whole--, to += each, from += packet_bytes)
                memcpy(to, from, each);
            if (last > 0)
                memcpy(to, from, last);
        }
    }
    PyBuffer_Release(&packets);
    return content;
}

static PyMethodDef methods[] = {
    {"packets_of", packets_of, METH_VARARGS,
     "Packets one behind the other, each with a head, its number and a part of the content."},
    {"content_of", content_of, METH_VARARGS,
     "What stands in packets of one size after the head of each."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.copying", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_copying(void) { return PyModule_Create(&module); }
