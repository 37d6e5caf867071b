/*
 * payload.c for Python: whole batches of messages in one call. wire.py loads it with ctypes, and
 * holds the interpreter's lock meanwhile.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "payload.h"

/* A maker for as long as the process lives; NULL if there is no memory. */
struct maker *new_maker(uint32_t sender, uint32_t kind, size_t size)
{
    struct maker *maker = malloc(sizeof *maker);
    return maker && maker_open(maker, sender, kind, size) ? maker : NULL;
}

struct checker *new_checker(size_t size)
{
    struct checker *checker = malloc(sizeof *checker);
    if (checker)
        checker_open(checker, size);
    return checker;
}

/* The next messages, as a list of bytes. */
PyObject *make_all(struct maker *maker, Py_ssize_t count, uint64_t sent_ns)
{
    PyObject *made = PyList_New(count);

    for (Py_ssize_t i = 0; made && i < count; i++) {
        PyObject *payload;

        maker_finish(maker, sent_ns);
        payload = PyBytes_FromStringAndSize(maker->message, (Py_ssize_t)maker->size);
        if (payload) {
            maker->counter++;
            PyList_SET_ITEM(made, i, payload);
        } else {
            Py_CLEAR(made);
        }
    }
    return made;
}

/*
 * Check those of *events* that are deliveries: tuples of that type, of an envelope that begins
 * with the sender's node, a counter, and the payload. Gives how many messages of the load there
 * were, their bytes, and a list of (node, nanoseconds since it was sent) of each probe; or the
 * complaint about the first that is wrong.
 */
PyObject *check_all(struct checker *checker, PyObject *events, PyObject *type)
{
    PyObject *batch = PySequence_Fast(events, "events must be a sequence");
    PyObject *probes = PyList_New(0), *result = NULL, *envelope = NULL;
    Py_ssize_t messages = 0;
    unsigned long long bytes = 0;
    uint32_t node = 0;

    if (!batch || !probes)
        goto end;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(batch); i++) {
        PyObject *event = PySequence_Fast_GET_ITEM(batch, i), *payload;
        uint64_t sent_ns;

        if (Py_TYPE(event) != (PyTypeObject *)type)
            continue;
        if (!PyTuple_Check(event) || !PyBytes_Check(PyTuple_GET_ITEM(event, 2))) {
            PyErr_SetString(PyExc_TypeError, "a delivery must be a tuple with bytes in it");
            goto end;
        }
        if (PyTuple_GET_ITEM(event, 0) != envelope) { /* most often it is that of the one before */
            envelope = PyTuple_GET_ITEM(event, 0);
            node = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(envelope, 0));
        }
        payload = PyTuple_GET_ITEM(event, 2);
        switch (checker_check(checker, PyBytes_AS_STRING(payload),
                              (size_t)PyBytes_GET_SIZE(payload), node, &sent_ns)) {
        case BULK:
            messages++;
            bytes += (unsigned long long)PyBytes_GET_SIZE(payload);
            break;
        case PROBE: {
            PyObject *probe = Py_BuildValue("IK", node, clock_ns() - sent_ns);
            if (!probe || PyList_Append(probes, probe) < 0) {
                Py_XDECREF(probe);
                goto end;
            }
            Py_DECREF(probe);
            break;
        }
        default:
            result = PyUnicode_FromString(checker->complaint);
            goto end;
        }
    }
    result = Py_BuildValue("nKO", messages, bytes, probes);
end:
    Py_XDECREF(probes);
    Py_XDECREF(batch);
    return result;
}
