/* The twin of vsync.engine.alike: messages that have one envelope, many at a time.
 *
 * A Delivery is a named tuple of three. Here it is made as tuple.__new__ makes it, without a tuple
 * to copy it from. Its items can refer to nothing that refers back to it, so the cyclic garbage
 * collector need not look at it.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <string.h>

static PyTypeObject *delivery_type;

/* The number of the message that is so many after one; beyond 64 bits it is nonsense, and no error. */
static PyObject *number(PyObject *first, unsigned long long counter, Py_ssize_t at)
{
    PyObject *distance, *sum;

    if (counter <= ULLONG_MAX - (unsigned long long)at)
        return PyLong_FromUnsignedLongLong(counter + (unsigned long long)at);
    distance = PyLong_FromSsize_t(at);
    if (distance == NULL)
        return NULL;
    sum = PyNumber_Add(first, distance);
    Py_DECREF(distance);
    return sum;
}

/* A new delivery; takes over the references to counter and payload, also when it fails. */
static PyObject *new_delivery(PyObject *envelope, PyObject *counter, PyObject *payload)
{
    PyObject *delivery = NULL;

    if (counter != NULL && payload != NULL)
        delivery = delivery_type->tp_alloc(delivery_type, 3);
    if (delivery == NULL) {
        Py_XDECREF(counter);
        Py_XDECREF(payload);
        return NULL;
    }
    PyTuple_SET_ITEM(delivery, 0, Py_NewRef(envelope));
    PyTuple_SET_ITEM(delivery, 1, counter);
    PyTuple_SET_ITEM(delivery, 2, payload);
    PyObject_GC_UnTrack(delivery);
    return delivery;
}

static PyObject *numbered(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *payloads, *deliveries;
    unsigned long long counter;
    Py_ssize_t at, count;

    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "numbered() takes an envelope, a counter and payloads");
        return NULL;
    }
    counter = PyLong_AsUnsignedLongLong(args[1]);
    if (counter == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    payloads = PySequence_Fast(args[2], "payloads are a sequence");
    if (payloads == NULL)
        return NULL;
    count = PySequence_Fast_GET_SIZE(payloads);
    deliveries = PyList_New(count);
    for (at = 0; deliveries != NULL && at < count; at++) {
        PyObject *payload = Py_NewRef(PySequence_Fast_GET_ITEM(payloads, at));
        PyObject *delivery =
            new_delivery(args[0], number(args[1], counter, at), payload);
        if (delivery == NULL)
            Py_CLEAR(deliveries);
        else
            PyList_SET_ITEM(deliveries, at, delivery);
    }
    Py_DECREF(payloads);
    return deliveries;
}

/* Messages that stand one behind the other in a frame. */
struct messages {
    Py_buffer frame;
    PyObject *lengths;
    const char *next;
    Py_ssize_t count, head_bytes;
};

static int open_messages(struct messages *messages, PyObject *frame, PyObject *start,
                         PyObject *lengths)
{
    Py_ssize_t place = PyLong_AsSsize_t(start);

    if (place == -1 && PyErr_Occurred())
        return -1;
    if (PyObject_GetBuffer(frame, &messages->frame, PyBUF_SIMPLE) < 0)
        return -1;
    if (place < 0 || place > messages->frame.len) {
        PyErr_SetString(PyExc_ValueError, "the messages begin outside of the frame");
        PyBuffer_Release(&messages->frame);
        return -1;
    }
    messages->lengths = PySequence_Fast(lengths, "lengths are a sequence");
    if (messages->lengths == NULL) {
        PyBuffer_Release(&messages->frame);
        return -1;
    }
    messages->next = (const char *)messages->frame.buf + place;
    messages->count = PySequence_Fast_GET_SIZE(messages->lengths);
    return 0;
}

static void close_messages(struct messages *messages)
{
    Py_DECREF(messages->lengths);
    PyBuffer_Release(&messages->frame);
}

/* The next message; its length goes to *length. NULL, with an error, if it is not in the frame. */
static const char *next_message(struct messages *messages, Py_ssize_t at, Py_ssize_t *length)
{
    const char *message = messages->next;
    const char *end = (const char *)messages->frame.buf + messages->frame.len;

    *length = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(messages->lengths, at));
    if (*length < 0 || *length > end - message) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a message ends outside of the frame");
        return NULL;
    }
    messages->next = message + *length;
    return message;
}

static PyObject *next_payload(struct messages *messages, Py_ssize_t at)
{
    Py_ssize_t length;
    const char *message = next_message(messages, at, &length);

    if (message == NULL)
        return NULL;
    if (messages->head_bytes < 0 || length < messages->head_bytes) {
        PyErr_SetString(PyExc_ValueError, "a message is shorter than its head");
        return NULL;
    }
    return PyBytes_FromStringAndSize(message + messages->head_bytes,
                                     length - messages->head_bytes);
}

static PyObject *begin_alike(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct messages messages;
    const char *message;
    Py_ssize_t at, length;
    int alike = 1;

    if (nargs != 4 || !PyBytes_Check(args[2])) {
        PyErr_SetString(PyExc_TypeError,
                        "begin_alike() takes a frame, a place in it, a head and lengths");
        return NULL;
    }
    if (open_messages(&messages, args[0], args[1], args[3]) < 0)
        return NULL;
    messages.head_bytes = PyBytes_GET_SIZE(args[2]);
    for (at = 0; at < messages.count && alike > 0; at++) {
        message = next_message(&messages, at, &length);
        if (message == NULL)
            alike = -1;
        else
            alike = length >= messages.head_bytes &&
                    memcmp(message, PyBytes_AS_STRING(args[2]), messages.head_bytes) == 0;
    }
    close_messages(&messages);
    return alike < 0 ? NULL : PyBool_FromLong(alike);
}

static PyObject *payloads_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct messages messages;
    PyObject *payloads;
    Py_ssize_t at, head_bytes;

    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "payloads_in() takes a frame, a place in it, how long a "
                                         "head is, and lengths");
        return NULL;
    }
    head_bytes = PyLong_AsSsize_t(args[2]);
    if (head_bytes == -1 && PyErr_Occurred())
        return NULL;
    if (open_messages(&messages, args[0], args[1], args[3]) < 0)
        return NULL;
    messages.head_bytes = head_bytes;
    payloads = PyList_New(messages.count);
    for (at = 0; payloads != NULL && at < messages.count; at++) {
        PyObject *payload = next_payload(&messages, at);
        if (payload == NULL)
            Py_CLEAR(payloads);
        else
            PyList_SET_ITEM(payloads, at, payload);
    }
    close_messages(&messages);
    return payloads;
}

static PyObject *read_alike(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct messages messages;
    PyObject *deliveries;
    unsigned long long counter;
    Py_ssize_t at, head_bytes;

    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "read_alike() takes an envelope, a counter, a frame, "
                                         "a place in it, how long a head is, and lengths");
        return NULL;
    }
    counter = PyLong_AsUnsignedLongLong(args[1]);
    if (counter == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    head_bytes = PyLong_AsSsize_t(args[4]);
    if (head_bytes == -1 && PyErr_Occurred())
        return NULL;
    if (open_messages(&messages, args[2], args[3], args[5]) < 0)
        return NULL;
    messages.head_bytes = head_bytes;
    deliveries = PyList_New(messages.count);
    for (at = 0; deliveries != NULL && at < messages.count; at++) {
        PyObject *payload = next_payload(&messages, at), *delivery = NULL;
        if (payload != NULL)
            delivery = new_delivery(args[0], number(args[1], counter, at), payload);
        if (delivery == NULL)
            Py_CLEAR(deliveries);
        else
            PyList_SET_ITEM(deliveries, at, delivery);
    }
    close_messages(&messages);
    return deliveries;
}

static PyMethodDef methods[] = {
    {"numbered", (PyCFunction)(void (*)(void))numbered, METH_FASTCALL,
     "The deliveries of payloads, the first of which has that counter."},
    {"read_alike", (PyCFunction)(void (*)(void))read_alike, METH_FASTCALL,
     "The deliveries of messages in a frame."},
    {"begin_alike", (PyCFunction)(void (*)(void))begin_alike, METH_FASTCALL,
     "Whether all messages in a frame begin with that head."},
    {"payloads_in", (PyCFunction)(void (*)(void))payloads_in, METH_FASTCALL,
     "What messages in a frame have behind their heads."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.engine.alike", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_alike(void)
{
    PyObject *events = PyImport_ImportModule("vsync.events"), *delivery;

    if (events == NULL)
        return NULL;
    delivery = PyObject_GetAttrString(events, "Delivery");
    Py_DECREF(events);
    if (delivery == NULL)
        return NULL;
    if (!PyType_Check(delivery) || !PyType_IsSubtype((PyTypeObject *)delivery, &PyTuple_Type)) {
        Py_DECREF(delivery);
        PyErr_SetString(PyExc_ImportError, "a Delivery is no tuple here");
        return NULL;
    }
    Py_XSETREF(delivery_type, (PyTypeObject *)delivery);
    return PyModule_Create(&module);
}
