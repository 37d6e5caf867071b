/* The twin of vsync.engine.alike: deliveries of messages that have one envelope, many at a time.
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

static PyObject *read_alike(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *lengths, *deliveries;
    unsigned long long counter;
    const char *message, *end, *head;
    Py_ssize_t at, count, start, head_bytes;

    if (nargs != 6 || !PyBytes_Check(args[2]) || !PyBytes_Check(args[4])) {
        PyErr_SetString(PyExc_TypeError, "read_alike() takes an envelope, a counter, bytes, "
                                         "a place in them, a head and lengths");
        return NULL;
    }
    counter = PyLong_AsUnsignedLongLong(args[1]);
    if (counter == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    start = PyLong_AsSsize_t(args[3]);
    if (start == -1 && PyErr_Occurred())
        return NULL;
    if (start < 0 || start > PyBytes_GET_SIZE(args[2])) {
        PyErr_SetString(PyExc_ValueError, "the messages begin outside of the frame");
        return NULL;
    }
    message = PyBytes_AS_STRING(args[2]) + start;
    end = PyBytes_AS_STRING(args[2]) + PyBytes_GET_SIZE(args[2]);
    head = PyBytes_AS_STRING(args[4]);
    head_bytes = PyBytes_GET_SIZE(args[4]);
    lengths = PySequence_Fast(args[5], "lengths are a sequence");
    if (lengths == NULL)
        return NULL;
    count = PySequence_Fast_GET_SIZE(lengths);
    deliveries = PyList_New(count);
    for (at = 0; deliveries != NULL && at < count; at++) {
        Py_ssize_t length = PyLong_AsSsize_t(PySequence_Fast_GET_ITEM(lengths, at));
        PyObject *delivery;

        if (length < 0 || length > end - message) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_ValueError, "a message ends outside of the frame");
            Py_CLEAR(deliveries);
            break;
        }
        if (length < head_bytes || memcmp(message, head, head_bytes) != 0) {
            Py_DECREF(deliveries);
            deliveries = Py_NewRef(Py_None);
            break;
        }
        delivery = new_delivery(
            args[0], number(args[1], counter, at),
            PyBytes_FromStringAndSize(message + head_bytes, length - head_bytes));
        if (delivery == NULL)
            Py_CLEAR(deliveries);
        else
            PyList_SET_ITEM(deliveries, at, delivery);
        message += length;
    }
    Py_DECREF(lengths);
    return deliveries;
}

static PyMethodDef methods[] = {
    {"numbered", (PyCFunction)(void (*)(void))numbered, METH_FASTCALL,
     "The deliveries of payloads, the first of which has that counter."},
    {"read_alike", (PyCFunction)(void (*)(void))read_alike, METH_FASTCALL,
     "The deliveries of messages in a frame; None if not all begin with that head."},
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
