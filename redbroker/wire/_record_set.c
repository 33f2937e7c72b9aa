/* The records inside a batch, decoded: what `record_set.decode_records` runs when it could be compiled.

     length varint | attributes i8 | timestampDelta varlong | offsetDelta varint
     keyLength varint, -1 null | key | valueLength varint, -1 null | value
     headerCount varint | { keyLength varint | key | valueLength varint, -1 null | value } * headerCount

   `split_records` in record_set.py is the specification: the same records, and for bytes that are malformed the same
   sentence, as a ValueError. It is the slower by ten times, and all there is where nothing could be compiled.

   The bytes are hostile. They are read through a cursor that knows their end, every length is compared with what is
   left before it is used, and nothing is allocated for what a length or a count merely states. They may even change
   meanwhile (the owner of a bytearray may write to it): that gives other records, and no more. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>

#if PY_VERSION_HEX >= 0x030F0000
#error "How a tuple is laid out was looked up for Python 3.11 to 3.14 only (see new_record); plain Python does it."
#endif

#define RECORD_BYTES_MIN 7 /* a byte each: length, attributes, two deltas, no key, no value, no headers */

static const char ENDS_EARLY[] = "they end early";
static const char BEYOND_64_BITS[] = "an offset or a time exceeds 64 bits";

typedef struct {
    const uint8_t *at, *end;
} Cursor;

/* What all records of a call share. The objects are the caller's, except `time`. */
typedef struct {
    PyTypeObject *kind;
    PyObject *before, *behind, *no_headers;
    int64_t base_offset, first_ms;
    PyObject *time; /* of the record before, or of all of them */
    int64_t delta_ms;
    int one_time, plain; /* all have one time; the fields of the shape can be in no cycle */
} Call;

static int corrupt(const char *why)
{
    PyErr_SetString(PyExc_ValueError, why);
    return -1;
}

static int read_long_varint(Cursor *from, int64_t *value)
{
    uint64_t rest = 0;
    for (int shift = 0;; shift += 7) {
        if (from->at == from->end)
            return corrupt(ENDS_EARLY);
        uint8_t byte = *from->at++;
        if (shift == 63 && byte > 1) /* the tenth byte has room for one bit, and none follows it */
            return corrupt("a varint exceeds 64 bits");
        rest |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80)
            break;
    }
    *value = (int64_t)(rest >> 1) ^ -(int64_t)(rest & 1);
    return 0;
}

static inline int read_varint(Cursor *from, int64_t *value)
{
    if (from->at < from->end) {
        uint8_t byte = *from->at;
        if (byte < 0x80) {
            from->at++;
            *value = (byte >> 1) ^ -(byte & 1);
            return 0;
        }
    }
    return read_long_varint(from, value);
}

/* The sum of two integers, or -1 with an error set. */
static inline int add(int64_t one, int64_t other, int64_t *sum)
{
    if (other >= 0 ? one > INT64_MAX - other : one < INT64_MIN - other)
        return corrupt(BEYOND_64_BITS);
    *sum = one + other;
    return 0;
}

/* A length, and where so many bytes begin; NULL for null, which any negative length is. */
static inline int read_bytes(Cursor *from, const char **begin, int64_t *size)
{
    if (read_varint(from, size) < 0)
        return -1;
    *begin = NULL;
    if (*size < 0)
        return 0;
    if (*size > from->end - from->at)
        return corrupt(ENDS_EARLY);
    *begin = (const char *)from->at;
    from->at += *size;
    return 0;
}

static inline PyObject *read_nullable(Cursor *from)
{
    const char *begin;
    int64_t size;
    if (read_bytes(from, &begin, &size) < 0)
        return NULL;
    return begin == NULL ? Py_NewRef(Py_None) : PyBytes_FromStringAndSize(begin, (Py_ssize_t)size);
}

static PyObject *read_header(Cursor *from)
{
    const char *begin;
    int64_t size;
    if (read_bytes(from, &begin, &size) < 0)
        return NULL;
    if (begin == NULL) {
        corrupt("a header has no key");
        return NULL;
    }
    PyObject *key = PyUnicode_DecodeUTF8(begin, (Py_ssize_t)size, "strict");
    if (key == NULL) {
        if (PyErr_ExceptionMatches(PyExc_UnicodeDecodeError))
            corrupt("the key of a header is not UTF-8");
        return NULL;
    }
    PyObject *value = read_nullable(from);
    PyObject *header = value == NULL ? NULL : PyTuple_Pack(2, key, value);
    Py_DECREF(key);
    Py_XDECREF(value);
    return header;
}

static PyObject *read_headers(Cursor *from)
{
    int64_t count;
    if (read_varint(from, &count) < 0)
        return NULL;
    if (count < 0 || count > from->end - from->at) {
        corrupt("there are more headers than bytes");
        return NULL;
    }
    PyObject *headers = PyList_New(0); /* it grows with what is found */
    for (; headers != NULL && count > 0; count--) {
        PyObject *header = read_header(from);
        if (header == NULL || PyList_Append(headers, header) < 0)
            Py_CLEAR(headers);
        Py_XDECREF(header);
    }
    return headers;
}

/* An instance of a named tuple whose fields are not set yet, which therefore the garbage collector must not see. */
static inline PyObject *new_record(PyTypeObject *kind, Py_ssize_t nfields)
{
    PyObject *record = kind->tp_alloc(kind, nfields);
    if (record == NULL)
        return NULL;
    PyObject_GC_UnTrack(record);
#if PY_VERSION_HEX >= 0x030E0000
    ((PyTupleObject *)record)->ob_hash = -1; /* not known yet; tp_alloc leaves 0, which would be taken for it */
#endif
    return record;
}

static inline PyObject *time_of(Call *call, int64_t delta_ms)
{
    if (call->time == NULL || (!call->one_time && delta_ms != call->delta_ms)) {
        int64_t time_ms;
        if (add(call->first_ms, delta_ms, &time_ms) < 0)
            return NULL;
        Py_XSETREF(call->time, PyLong_FromLongLong(time_ms));
        call->delta_ms = delta_ms;
    }
    return Py_XNewRef(call->time);
}

/* Set the next field, which takes the reference over; -1 when there is nothing to set it to. */
static inline int set(PyObject *record, Py_ssize_t *field, PyObject *value)
{
    if (value == NULL)
        return -1;
    PyTuple_SET_ITEM(record, *field, value);
    ++*field;
    return 0;
}

/* Read one record, set all fields of the named tuple; -1 with an error set. */
static inline int read_record(Cursor *from, Call *call, PyObject *record)
{
    int64_t size, delta_ms, delta, offset;
    if (read_varint(from, &size) < 0)
        return -1;
    if (size <= 0 || size > from->end - from->at)
        return corrupt("a record reaches past the end");
    const uint8_t *stop = from->at + size;
    from->at++; /* the record's attributes are not in use */
    if (read_varint(from, &delta_ms) < 0 || read_varint(from, &delta) < 0)
        return -1;

    Py_ssize_t field = 0, offset_field = PyTuple_GET_SIZE(call->before);
    while (field < offset_field)
        set(record, &field, Py_NewRef(PyTuple_GET_ITEM(call->before, field)));
    field += 2; /* offset and time come when the record has turned out to be whole */
    if (set(record, &field, read_nullable(from)) < 0 || set(record, &field, read_nullable(from)) < 0)
        return -1;
    int headers = from->at < from->end && *from->at != 0;
    if (headers) {
        if (set(record, &field, read_headers(from)) < 0)
            return -1;
    } else if (from->at == from->end) {
        return corrupt(ENDS_EARLY);
    } else {
        from->at++;
        set(record, &field, Py_NewRef(call->no_headers));
    }
    if (from->at != stop) /* the cursor only goes forward: this finds every length that reached past the record */
        return corrupt("a record has not the size it states");
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(call->behind); each++)
        set(record, &field, Py_NewRef(PyTuple_GET_ITEM(call->behind, each)));

    if (add(call->base_offset, delta, &offset) < 0 ||
        set(record, &offset_field, PyLong_FromLongLong(offset)) < 0 ||
        set(record, &offset_field, time_of(call, delta_ms)) < 0)
        return -1;
    /* A record of bytes, text and numbers is in no cycle, and stays out of the garbage collector's sight, as tuples
       do once it has found that out for itself: it would walk all records that are buffered, again and again. */
    if (headers || !call->plain)
        PyObject_GC_Track(record);
    return 0;
}

static PyObject *read_records(Cursor *from, Py_ssize_t count, Call *call)
{
    if (count > (from->end - from->at) / RECORD_BYTES_MIN) {
        corrupt("there are fewer bytes than records take");
        return NULL;
    }
    Py_ssize_t nfields = PyTuple_GET_SIZE(call->before) + 5 + PyTuple_GET_SIZE(call->behind);
    PyObject *records = PyList_New(count > 0 ? count : 0);
    if (records == NULL)
        return NULL;
    PyObject_GC_UnTrack(records); /* nobody may come across a list that is not full */
    for (Py_ssize_t place = 0; place < count; place++) {
        PyObject *record = new_record(call->kind, nfields);
        if (record == NULL)
            goto failed;
        PyList_SET_ITEM(records, place, record);
        if (read_record(from, call, record) < 0)
            goto failed;
    }
    if (from->at != from->end) {
        corrupt("there are more than it states");
        goto failed;
    }
    PyObject_GC_Track(records);
    return records;
failed:
    Py_DECREF(records);
    return NULL;
}

static int all_atomic(PyObject *fields)
{
    for (Py_ssize_t each = 0; each < PyTuple_GET_SIZE(fields); each++)
        if (PyObject_IS_GC(PyTuple_GET_ITEM(fields, each)))
            return 0;
    return 1;
}

/* 0 when `shape` is (a named tuple's type, tuple, tuple) as this file understands them, else -1. */
static int read_shape(PyObject *shape, Call *call)
{
    if (PyTuple_CheckExact(shape) && PyTuple_GET_SIZE(shape) == 3) {
        PyObject *kind = PyTuple_GET_ITEM(shape, 0);
        call->before = PyTuple_GET_ITEM(shape, 1);
        call->behind = PyTuple_GET_ITEM(shape, 2);
        call->kind = (PyTypeObject *)kind;
        if (PyTuple_CheckExact(call->before) && PyTuple_CheckExact(call->behind) && PyType_Check(kind) &&
            PyType_IsSubtype(call->kind, &PyTuple_Type) && call->kind != &PyTuple_Type &&
            call->kind->tp_basicsize == PyTuple_Type.tp_basicsize &&
            call->kind->tp_itemsize == PyTuple_Type.tp_itemsize && call->kind->tp_dictoffset == 0 &&
            call->kind->tp_alloc == PyType_GenericAlloc && call->kind->tp_finalize == NULL) {
            call->plain = all_atomic(call->before) && all_atomic(call->behind);
            return 0;
        }
    }
    PyErr_SetString(PyExc_TypeError, "a shape is (type of named tuples, tuple, tuple)");
    return -1;
}

static PyObject *decode_records(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    Call call = {0};
    Py_buffer data;
    if (nargs != 6) {
        PyErr_SetString(PyExc_TypeError, "decode_records(data, count, base_offset, first_ms, append_time_ms, shape)");
        return NULL;
    }
    Py_ssize_t count = PyLong_AsSsize_t(args[1]);
    if (count == -1 && PyErr_Occurred())
        return NULL;
    call.base_offset = PyLong_AsLongLong(args[2]);
    if (call.base_offset == -1 && PyErr_Occurred())
        return NULL;
    call.first_ms = PyLong_AsLongLong(args[3]);
    if (call.first_ms == -1 && PyErr_Occurred())
        return NULL;
    if (args[4] != Py_None && !PyLong_CheckExact(args[4])) {
        PyErr_SetString(PyExc_TypeError, "append_time_ms is an int or None");
        return NULL;
    }
    if (read_shape(args[5], &call) < 0 || PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0)
        return NULL;
    call.one_time = args[4] != Py_None;
    call.time = call.one_time ? Py_NewRef(args[4]) : NULL;
    call.no_headers = PyTuple_New(0);
    const uint8_t *begin = data.len > 0 ? data.buf : (const uint8_t *)""; /* an empty buffer may be nowhere */
    Cursor from = {begin, begin + data.len};
    PyObject *records = call.no_headers == NULL ? NULL : read_records(&from, count, &call);
    Py_XDECREF(call.no_headers);
    Py_XDECREF(call.time);
    PyBuffer_Release(&data);
    return records;
}

static PyMethodDef FUNCTIONS[] = {
    {"decode_records", (PyCFunction)(void (*)(void))decode_records, METH_FASTCALL,
     "As record_set.decode_records; ValueError where that raises CORRUPT_MESSAGE."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT, .m_name = "_record_set", .m_methods = FUNCTIONS, .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__record_set(void)
{
    return PyModuleDef_Init(&MODULE);
}
