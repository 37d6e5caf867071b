/* The twin of vsync.ip.receiving: what waits in a socket, with one call of the system for many. */

#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define AT_ONCE 16
#define SMALL_BYTES 4096
#define SOURCES_MAX 256
#define SOL_UDP_LEVEL 17
#define UDP_GRO_KIND 104 /* linux/udp.h */

/* Buffers of one size that were not used up: bytes objects that nobody else has. */
static PyObject *spare[AT_ONCE];
static int spares;
static Py_ssize_t spare_bytes;

/* Addresses as Python has them, by the bytes that the kernel has. */
static PyObject *sources;

static PyObject *fresh_buffer(Py_ssize_t bytes)
{
    if (spares > 0 && spare_bytes == bytes)
        return spare[--spares];
    return PyBytes_FromStringAndSize(NULL, bytes);
}

static void keep_buffer(PyObject *buffer, Py_ssize_t bytes)
{
    if (spares > 0 && spare_bytes != bytes)
        while (spares > 0)
            Py_DECREF(spare[--spares]);
    if (spares == AT_ONCE) {
        Py_DECREF(buffer);
        return;
    }
    spare_bytes = bytes;
    spare[spares++] = buffer;
}

static PyObject *made_source(const struct sockaddr_storage *from)
{
    char host[INET6_ADDRSTRLEN];

    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *four = (const struct sockaddr_in *)from;
        if (inet_ntop(AF_INET, &four->sin_addr, host, sizeof host) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return Py_BuildValue("(si)", host, (int)ntohs(four->sin_port));
    }
    if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)from;
        if (inet_ntop(AF_INET6, &six->sin6_addr, host, sizeof host) == NULL)
            return PyErr_SetFromErrno(PyExc_OSError);
        return Py_BuildValue("(siII)", host, (int)ntohs(six->sin6_port),
                             (unsigned int)ntohl(six->sin6_flowinfo),
                             (unsigned int)six->sin6_scope_id);
    }
    Py_RETURN_NONE;
}

static PyObject *source_of(const struct sockaddr_storage *from, socklen_t bytes)
{
    PyObject *source, *key = PyBytes_FromStringAndSize((const char *)from, bytes);

    if (key == NULL)
        return NULL;
    source = PyDict_GetItemWithError(sources, key);
    Py_XINCREF(source);
    if (source == NULL && !PyErr_Occurred()) {
        source = made_source(from);
        if (PyDict_GET_SIZE(sources) >= SOURCES_MAX)
            PyDict_Clear(sources);
        if (source != NULL && PyDict_SetItem(sources, key, source) < 0)
            Py_CLEAR(source);
    }
    Py_DECREF(key);
    return source;
}

static int segment_bytes_of(struct msghdr *message)
{
    struct cmsghdr *each;
    int bytes;

    for (each = CMSG_FIRSTHDR(message); each != NULL; each = CMSG_NXTHDR(message, each))
        if (each->cmsg_level == SOL_UDP_LEVEL && each->cmsg_type == UDP_GRO_KIND &&
            each->cmsg_len >= CMSG_LEN(sizeof bytes)) {
            memcpy(&bytes, CMSG_DATA(each), sizeof bytes);
            return bytes;
        }
    return 0;
}

/* What came in *buffer*, which it takes or keeps for later; NULL with an error set. */
static PyObject *received(PyObject *buffer, Py_ssize_t buffer_bytes, struct mmsghdr *message)
{
    Py_ssize_t bytes = message->msg_len;
    PyObject *source, *data;

    if (bytes <= SMALL_BYTES) {
        data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(buffer), bytes);
        keep_buffer(buffer, buffer_bytes);
    } else {
        data = buffer;
        if (bytes != buffer_bytes)
            _PyBytes_Resize(&data, bytes); /* NULL where it fails */
    }
    if (data == NULL)
        return NULL;
    source = source_of(message->msg_hdr.msg_name, message->msg_hdr.msg_namelen);
    if (source == NULL) {
        Py_DECREF(data);
        return NULL;
    }
    return Py_BuildValue("(NiNN)", data, segment_bytes_of(&message->msg_hdr),
                         PyBool_FromLong(message->msg_hdr.msg_flags & MSG_TRUNC), source);
}

/* One call: how many came; -1 with an error set; -2 if nothing waits, -3 if it was no news. */
static int receive_some(int descriptor, int count, Py_ssize_t bytes_max, PyObject *into)
{
    union {
        struct cmsghdr aligned;
        char bytes[CMSG_SPACE(sizeof(int))];
    } controls[AT_ONCE];
    struct sockaddr_storage names[AT_ONCE];
    struct mmsghdr messages[AT_ONCE];
    struct iovec places[AT_ONCE];
    PyObject *buffers[AT_ONCE];
    int at, came, error;

    for (at = 0; at < count; at++) {
        buffers[at] = fresh_buffer(bytes_max);
        if (buffers[at] == NULL) {
            while (at-- > 0)
                keep_buffer(buffers[at], bytes_max);
            return -1;
        }
        places[at].iov_base = PyBytes_AS_STRING(buffers[at]);
        places[at].iov_len = bytes_max;
        names[at].ss_family = AF_UNSPEC; /* a socket without addresses says nothing */
        memset(&messages[at], 0, sizeof messages[at]);
        messages[at].msg_hdr.msg_name = &names[at];
        messages[at].msg_hdr.msg_namelen = sizeof names[at];
        messages[at].msg_hdr.msg_iov = &places[at];
        messages[at].msg_hdr.msg_iovlen = 1;
        messages[at].msg_hdr.msg_control = &controls[at];
        messages[at].msg_hdr.msg_controllen = sizeof controls[at];
    }
    Py_BEGIN_ALLOW_THREADS
    came = recvmmsg(descriptor, messages, count, MSG_DONTWAIT, NULL);
    error = errno;
    Py_END_ALLOW_THREADS
    for (at = 0; at < came; at++) {
        PyObject *one = received(buffers[at], bytes_max, &messages[at]);
        int failed = one == NULL || PyList_Append(into, one) < 0;
        Py_XDECREF(one);
        if (failed) {
            at++;
            came = -1;
            error = 0;
            break;
        }
    }
    for (; at < count; at++)
        keep_buffer(buffers[at], bytes_max);
    if (came >= 0)
        return came;
    if (error == 0)
        return -1;
    if (error == EAGAIN || error == EWOULDBLOCK)
        return -2;
    if (error == ECONNREFUSED)
        return -3;
    errno = error;
    if (error == EINTR)
        return PyErr_CheckSignals() < 0 ? -1 : 0;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *receive(PyObject *self, PyObject *args)
{
    PyObject *receiver, *into;
    Py_ssize_t count_max, bytes_max;
    int descriptor;

    if (!PyArg_ParseTuple(args, "OnnO!:receive", &receiver, &count_max, &bytes_max, &PyList_Type,
                          &into))
        return NULL;
    if (bytes_max < 1) {
        PyErr_SetString(PyExc_ValueError, "there must be room for a byte");
        return NULL;
    }
    descriptor = PyObject_AsFileDescriptor(receiver);
    if (descriptor < 0)
        return NULL;
    while (count_max > 0) {
        int count = count_max < AT_ONCE ? (int)count_max : AT_ONCE;
        int came = receive_some(descriptor, count, bytes_max, into);
        if (came == -1)
            return NULL;
        if (came == -2)
            Py_RETURN_FALSE;
        if (came > 0 && came < count)
            Py_RETURN_FALSE; /* the kernel stops where nothing waits, or says why next time */
        count_max -= came > 0 ? came : 1;
    }
    Py_RETURN_TRUE;
}

static PyMethodDef methods[] = {
    {"receive", receive, METH_VARARGS, "Add to a list what waits in a socket."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "vsync.ip.receiving", NULL, -1, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_receiving(void)
{
    sources = PyDict_New();
    return sources == NULL ? NULL : PyModule_Create(&module);
}
