/* The twin of vsync.engine.alike: messages that have one envelope, many at a time.
 *
 * A Delivery is a named tuple of three. Here it is made as tuple.__new__ makes it, without a tuple
 * to copy it from. Its items can refer to nothing that refers back to it, so the cyclic garbage
 * collector need not look at it; but a payload may be of a class derived from bytes, and then can.
 */

#include "content.h"
#include <limits.h>

static PyTypeObject *content_type, *delivery_type;

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
    if (PyBytes_CheckExact(payload))
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

/* Messages that stand one behind the other in a frame, each with a head. */
struct messages {
    struct way way;
    struct held held;
    PyObject *lengths;
    Py_ssize_t count, head_bytes;
};

static int open_messages(struct messages *messages, PyObject *frame, PyObject *start,
                         PyObject *lengths)
{
    Py_ssize_t place = PyLong_AsSsize_t(start);

    if (place == -1 && PyErr_Occurred())
        return -1;
    if (set_out(&messages->way, &messages->held, frame, content_type) < 0)
        return -1;
    if (place < 0 || place > messages->way.left) {
        PyErr_SetString(PyExc_ValueError, "the messages begin outside of the frame");
        arrive(&messages->held);
        return -1;
    }
    messages->lengths = PySequence_Fast(lengths, "lengths are a sequence");
    if (messages->lengths == NULL) {
        arrive(&messages->held);
        return -1;
    }
    walk(&messages->way, NULL, place);
    messages->count = PySequence_Fast_GET_SIZE(messages->lengths);
    return 0;
}

static void close_messages(struct messages *messages)
{
    Py_DECREF(messages->lengths);
    arrive(&messages->held);
}

/* The length of a message, which is the next; -1, with an error, if it is not in the frame. */
static Py_ssize_t length_of(const struct messages *messages, Py_ssize_t at)
{
    Py_ssize_t length = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(messages->lengths, at));

    if (length < 0 || length > messages->way.left) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a message ends outside of the frame");
        return -1;
    }
    return length;
}

static PyObject *next_payload(struct messages *messages, Py_ssize_t at)
{
    Py_ssize_t length = length_of(messages, at);
    PyObject *payload;

    if (length < 0)
        return NULL;
    if (messages->head_bytes < 0 || length < messages->head_bytes) {
        PyErr_SetString(PyExc_ValueError, "a message is shorter than its head");
        return NULL;
    }
    payload = PyBytes_FromStringAndSize(NULL, length - messages->head_bytes);
    if (payload != NULL) {
        walk(&messages->way, NULL, messages->head_bytes);
        walk(&messages->way, PyBytes_AS_STRING(payload), length - messages->head_bytes);
    }
    return payload;
}

/* Whether the next message, of that length, begins with that head; goes past it. */
static int next_begins(struct messages *messages, Py_ssize_t length, const char *head)
{
    Py_ssize_t bytes = messages->head_bytes, now;

    if (length < bytes)
        return 0;
    length -= bytes;
    for (; bytes > 0; bytes -= now, head += now) {
        now = standing_here(&messages->way, bytes);
        if (memcmp(messages->way.at, head, now) != 0)
            return 0;
        step(&messages->way, now);
    }
    walk(&messages->way, NULL, length);
    return 1;
}

static PyObject *begin_alike(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct messages messages;
    Py_ssize_t at;
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
        Py_ssize_t length = length_of(&messages, at);
        alike = length < 0 ? -1 : next_begins(&messages, length, PyBytes_AS_STRING(args[2]));
    }
    close_messages(&messages);
    return alike < 0 ? NULL : PyBool_FromLong(alike);
}

/* The payloads of messages, given by a frame, a place in it, how long a head is, and lengths; or
 * their deliveries, if there is an envelope. */
static PyObject *read_messages(PyObject *const *args, PyObject *envelope, PyObject *first,
                               unsigned long long counter)
{
    struct messages messages;
    PyObject *read;
    Py_ssize_t at, head_bytes = PyLong_AsSsize_t(args[2]);

    if (head_bytes == -1 && PyErr_Occurred())
        return NULL;
    if (open_messages(&messages, args[0], args[1], args[3]) < 0)
        return NULL;
    messages.head_bytes = head_bytes;
    read = PyList_New(messages.count);
    for (at = 0; read != NULL && at < messages.count; at++) {
        PyObject *each = next_payload(&messages, at);
        if (each != NULL && envelope != NULL)
            each = new_delivery(envelope, number(first, counter, at), each);
        if (each == NULL)
            Py_CLEAR(read);
        else
            PyList_SET_ITEM(read, at, each);
    }
    close_messages(&messages);
    return read;
}

static PyObject *payloads_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4) {
        PyErr_SetString(PyExc_TypeError, "payloads_in() takes a frame, a place in it, how long a "
                                         "head is, and lengths");
        return NULL;
    }
    return read_messages(args, NULL, NULL, 0);
}

static PyObject *read_alike(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned long long counter;

    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "read_alike() takes an envelope, a counter, a frame, "
                                         "a place in it, how long a head is, and lengths");
        return NULL;
    }
    counter = PyLong_AsUnsignedLongLong(args[1]);
    if (counter == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    return read_messages(args + 2, args[0], args[1], counter);
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
    Py_XSETREF(content_type, import_content_type());
    if (content_type == NULL)
        return NULL;
    return PyModule_Create(&module);
}
