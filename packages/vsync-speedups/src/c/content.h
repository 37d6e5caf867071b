/* What a frame carries, read where it stands: a part of it in each packet, behind a head.
 *
 * `Content` is a type of vsync.copying; the other modules know it by this layout.
 */

#ifndef VSYNC_CONTENT_H
#define VSYNC_CONTENT_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

/* The bytes from `start` on, so many, of all that stand in packets of one size behind their heads.
 * Who makes one sees to it that they are there. */
typedef struct {
    PyObject_HEAD
    PyObject *whole;   /* the content that this is cut out of, if any; else it holds the packets */
    Py_buffer packets; /* of the whole alone */
    const char *first; /* where the first packet begins */
    Py_ssize_t packet_bytes, head_bytes, start, length;
    PyObject *joined; /* a copy without gaps, once somebody wanted it */
} Content;

/* A way through bytes: so many are left, `here` of them without a gap, and then `each` at a time
 * behind a `gap`. */
struct way {
    const char *at;
    Py_ssize_t left, here, gap, each;
};

/* Who walks holds what he reads. */
struct held {
    PyObject *content;
    Py_buffer buffer;
};

static inline struct way straight_way(const void *from, Py_ssize_t bytes)
{
    return (struct way){from, bytes, bytes, 0, 0};
}

static inline struct way way_through(const Content *content)
{
    Py_ssize_t each = content->packet_bytes - content->head_bytes;
    Py_ssize_t packet = content->start / each, within = content->start % each;

    if (content->joined != NULL)
        return straight_way(PyBytes_AS_STRING(content->joined), content->length);
    if (content->length == 0)
        return straight_way(content->first, 0);
    return (struct way){
        content->first + packet * content->packet_bytes + content->head_bytes + within,
        content->length, each - within, content->head_bytes, each,
    };
}

/* The way through *object*, a content or a buffer; -1 with an error set if it is neither. */
static inline int set_out(struct way *way, struct held *held, PyObject *object,
                          PyTypeObject *content_type)
{
    held->content = NULL;
    if (Py_TYPE(object) == content_type) {
        held->content = Py_NewRef(object);
        *way = way_through((Content *)object);
        return 0;
    }
    if (PyObject_GetBuffer(object, &held->buffer, PyBUF_SIMPLE) < 0)
        return -1;
    *way = straight_way(held->buffer.buf, held->buffer.len);
    return 0;
}

static inline void arrive(struct held *held)
{
    if (held->content != NULL)
        Py_DECREF(held->content);
    else
        PyBuffer_Release(&held->buffer);
}

/* How many of the next *bytes*, which must not be more than are left, stand here. */
static inline Py_ssize_t standing_here(const struct way *way, Py_ssize_t bytes)
{
    return bytes < way->here ? bytes : way->here;
}

/* Past *bytes* that all stand here. */
static inline void step(struct way *way, Py_ssize_t bytes)
{
    way->at += bytes;
    way->here -= bytes;
    way->left -= bytes;
    if (way->here == 0 && way->left > 0) {
        way->at += way->gap;
        way->here = way->each;
    }
}

/* Past *bytes*, which must not be more than are left; to *to*, if that is not NULL. */
static inline void walk(struct way *way, char *to, Py_ssize_t bytes)
{
    while (bytes > 0) {
        Py_ssize_t now = standing_here(way, bytes);
        if (to != NULL) {
            memcpy(to, way->at, now);
            to += now;
        }
        step(way, now);
        bytes -= now;
    }
}

/* The type, for who did not make it: a new reference, NULL with an error set. */
static inline PyTypeObject *import_content_type(void)
{
    PyObject *copying = PyImport_ImportModule("vsync.copying"), *type = NULL;

    if (copying != NULL)
        type = PyObject_GetAttrString(copying, "Content");
    Py_XDECREF(copying);
    if (type != NULL && !PyType_Check(type)) {
        Py_CLEAR(type);
        PyErr_SetString(PyExc_ImportError, "a Content is no type here");
    }
    return (PyTypeObject *)type;
}

#endif
