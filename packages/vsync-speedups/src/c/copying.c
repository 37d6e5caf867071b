/* The twin of vsync.copying: a frame's content into packets, and read out of them where it stands. */

#include "content.h"

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

/* --- contents --- */

static PyTypeObject content_type;

static PyObject *new_content(Py_ssize_t length)
{
    Content *content = PyObject_New(Content, &content_type);

    if (content != NULL) {
        content->whole = content->joined = NULL;
        content->packets.obj = NULL; /* so that it may be released */
        content->start = 0;
        content->length = length;
    }
    return (PyObject *)content;
}

static void content_dealloc(PyObject *object)
{
    Content *self = (Content *)object;

    Py_XDECREF(self->whole);
    Py_XDECREF(self->joined);
    PyBuffer_Release(&self->packets);
    PyObject_Free(self);
}

static Py_ssize_t content_length(PyObject *self) { return ((Content *)self)->length; }

static PyObject *content_cut(Content *self, Py_ssize_t start, Py_ssize_t length)
{
    Content *part = (Content *)new_content(length);

    if (part != NULL) {
        part->whole = Py_NewRef(self->whole != NULL ? self->whole : (PyObject *)self);
        part->first = self->first;
        part->packet_bytes = self->packet_bytes;
        part->head_bytes = self->head_bytes;
        part->start = self->start + start;
    }
    return (PyObject *)part;
}

static PyObject *content_subscript(PyObject *object, PyObject *key)
{
    Content *self = (Content *)object;

    if (PySlice_Check(key)) {
        Py_ssize_t start, stop, stride, length;
        if (PySlice_Unpack(key, &start, &stop, &stride) < 0)
            return NULL;
        length = PySlice_AdjustIndices(self->length, &start, &stop, stride);
        if (stride != 1) {
            PyErr_SetString(PyExc_ValueError, "a part of a content is in one piece");
            return NULL;
        }
        return content_cut(self, start, length);
    }
    Py_ssize_t at = PyNumber_AsSsize_t(key, PyExc_IndexError);
    if (at == -1 && PyErr_Occurred())
        return NULL;
    if (at < 0)
        at += self->length;
    if (at < 0 || at >= self->length) {
        PyErr_SetString(PyExc_IndexError, "the content is not that long");
        return NULL;
    }
    struct way way = way_through(self);
    walk(&way, NULL, at);
    return PyLong_FromLong((unsigned char)*way.at);
}

/* Where it does not stand in one piece it is put together, once. */
static int content_getbuffer(PyObject *object, Py_buffer *view, int flags)
{
    Content *self = (Content *)object;
    struct way way = way_through(self);

    if (way.here < way.left) {
        PyObject *joined = PyBytes_FromStringAndSize(NULL, self->length);
        if (joined == NULL) {
            view->obj = NULL;
            return -1;
        }
        walk(&way, PyBytes_AS_STRING(joined), self->length);
        self->joined = joined;
        way = way_through(self);
    }
    return PyBuffer_FillInfo(view, object, (void *)way.at, self->length, 1, flags);
}

static PyMappingMethods content_as_mapping = {
    .mp_length = content_length,
    .mp_subscript = content_subscript,
};

static PyBufferProcs content_as_buffer = {.bf_getbuffer = content_getbuffer};

static PyTypeObject content_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vsync.copying.Content",
    .tp_doc = "What a frame carries, where it stands in the packets that it came in.",
    .tp_basicsize = sizeof(Content),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = content_dealloc,
    .tp_as_mapping = &content_as_mapping,
    .tp_as_buffer = &content_as_buffer,
};

static PyObject *content_of(PyObject *self, PyObject *args)
{
    PyObject *packets;
    Py_ssize_t packet_bytes, head_bytes, whole, last;
    Content *content;

    if (!PyArg_ParseTuple(args, "Onn:content_of", &packets, &packet_bytes, &head_bytes))
        return NULL;
    if (head_bytes < 0 || packet_bytes <= head_bytes) {
        PyErr_SetString(PyExc_ValueError, "a packet is longer than its head");
        return NULL;
    }
    content = (Content *)new_content(0);
    if (content == NULL)
        return NULL;
    if (PyObject_GetBuffer(packets, &content->packets, PyBUF_SIMPLE) < 0) {
        content->packets.obj = NULL;
        Py_DECREF(content);
        return NULL;
    }
    whole = content->packets.len / packet_bytes;
    last = content->packets.len % packet_bytes;
    last = last > head_bytes ? last - head_bytes : 0;
    content->first = content->packets.buf;
    content->packet_bytes = packet_bytes;
    content->head_bytes = head_bytes;
    content->length = whole * (packet_bytes - head_bytes) + last;
    return (PyObject *)content;
}

static PyObject *view_of(PyObject *self, PyObject *content)
{
    return Py_TYPE(content) == &content_type ? Py_NewRef(content)
                                             : PyMemoryView_FromObject(content);
}

static PyObject *joined(PyObject *self, PyObject *given)
{
    PyObject *whole = NULL, *pieces = PySequence_Fast(given, "pieces are a sequence");
    Py_ssize_t at, bytes = 0;

    if (pieces == NULL)
        return NULL;
    /* A list may change while a piece of it says how long it is. */
    for (at = 0; at < PySequence_Fast_GET_SIZE(pieces); at++) {
        Py_ssize_t length = PyObject_Size(PySequence_Fast_GET_ITEM(pieces, at));
        if (length < 0)
            goto done;
        if (length > PY_SSIZE_T_MAX - bytes) {
            PyErr_SetString(PyExc_OverflowError, "the pieces are too long to be joined");
            goto done;
        }
        bytes += length;
    }
    whole = PyBytes_FromStringAndSize(NULL, bytes);
    if (whole == NULL)
        goto done;
    char *to = PyBytes_AS_STRING(whole);
    for (at = 0; at < PySequence_Fast_GET_SIZE(pieces); at++) {
        struct way way;
        struct held held;
        if (set_out(&way, &held, PySequence_Fast_GET_ITEM(pieces, at), &content_type) < 0) {
            Py_CLEAR(whole);
            goto done;
        }
        Py_ssize_t length = way.left;
        if (length <= bytes)
            walk(&way, to, length);
        arrive(&held);
        if (length > bytes) /* not of bytes, but of larger items */
            break;
        to += length;
        bytes -= length;
    }
    if (at < PySequence_Fast_GET_SIZE(pieces) || bytes > 0) {
        PyErr_SetString(PyExc_ValueError, "pieces are of bytes");
        Py_CLEAR(whole);
    }
done:
    Py_DECREF(pieces);
    return whole;
}

static PyMethodDef methods[] = {
    {"packets_of", packets_of, METH_VARARGS,
     "Packets one behind the other, each with a head, its number and a part of the content."},
    {"content_of", content_of, METH_VARARGS,
     "What stands in packets of one size after the head of each."},
    {"view_of", view_of, METH_O, "A content whose parts are not copied."},
    {"joined", joined, METH_O, "Pieces in one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.copying", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_copying(void)
{
    PyObject *made = NULL;

    if (PyType_Ready(&content_type) == 0)
        made = PyModule_Create(&module);
    if (made != NULL && PyModule_AddObjectRef(made, "Content", (PyObject *)&content_type) < 0)
        Py_CLEAR(made);
    return made;
}
