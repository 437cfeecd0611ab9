/* A CUDA runtime without a GPU: device memory is malloc, streams run at once, captured work is
 * replayed. It checks what it is given (blocks, sizes, directions, states), counts what lives, and
 * fails on request. Test code: nothing of it is part of the package. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 1, MEMORY = 2, BAD_DIRECTION = 21, CAPTURE_UNSUPPORTED = 900 };
enum { DEVICE, HOST, STREAM, GRAPH, EXEC, KINDS };
enum { MAX_BLOCKS = 4096, MAX_OPS = 64 };

typedef void (*Kernel)(void);
typedef struct { void *to; const void *from; size_t size; int direction; Kernel kernel; } Op;
typedef struct { int count; Op ops[MAX_OPS]; } Graph;
typedef struct { char *at; size_t size; int kind; } Block;

static Block blocks[MAX_BLOCKS];
static Graph *recording;
static void *recording_stream;
static char fault_name[64];
static int fault_skip = -1, fault_code, fault_is_lasting, lost, devices = 1, last_error;
static long counts[KINDS], launches, resets;

static int fails(const char *name) {
    if (lost) return last_error = lost;
    if (fault_skip < 0 || strcmp(name, fault_name)) return OK;
    if (fault_skip-- > 0) return OK;
    if (fault_is_lasting) lost = fault_code;
    return last_error = fault_code;
}
#define BEGIN(name) do { int code = fails(name); if (code) return code; } while (0)

static Block *find(const void *at, size_t size, int kind) {
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (blocks[i].at && blocks[i].kind == kind && (const char *)at >= blocks[i].at &&
            (const char *)at + size <= blocks[i].at + blocks[i].size) return &blocks[i];
    return 0;
}
static int allocate(void **out, size_t size, int kind) {
    for (int i = 0; i < MAX_BLOCKS; i++) if (!blocks[i].at) {
        blocks[i] = (Block){aligned_alloc(256, (size + 255) / 256 * 256), size, kind};
        memset(blocks[i].at, 0xA5, size);
        counts[kind]++;
        *out = blocks[i].at;
        return OK;
    }
    return MEMORY;
}
static int forget(void *at, int kind) {
    Block *block = find(at, 1, kind);
    if (!block || block->at != at) return last_error = INVALID;
    memset(block->at, 0x5A, block->size); /* a use after this shows */
    free(block->at);
    block->at = 0;
    counts[kind]--;
    return OK;
}
static int run(const Op *op) {
    if (op->kernel) { op->kernel(); return OK; }
    memcpy(op->to, op->from, op->size);
    return OK;
}
static int put(void *stream, Op op) {
    if (!find(stream, 1, STREAM)) return last_error = INVALID;
    if (recording_stream != stream) return run(&op);
    if (recording->count == MAX_OPS) return last_error = MEMORY;
    recording->ops[recording->count++] = op;
    return OK;
}

int cudaRuntimeGetVersion(int *v) { BEGIN("cudaRuntimeGetVersion"); *v = 12060; return OK; }
int cudaDriverGetVersion(int *v) { BEGIN("cudaDriverGetVersion"); *v = 12060; return OK; }
int cudaGetDeviceCount(int *n) { BEGIN("cudaGetDeviceCount"); *n = devices; return OK; }
int cudaSetDevice(int d) { BEGIN("cudaSetDevice"); return d < devices ? OK : INVALID; }
int cudaGetDeviceProperties(void *p, int d) {
    BEGIN("cudaGetDeviceProperties");
    memset(p, 0xEE, 1032);
    strcpy(p, "Stub GPU");
    return d < devices ? OK : INVALID;
}
int cudaDeviceGetAttribute(int *v, int which, int d) {
    BEGIN("cudaDeviceGetAttribute");
    *v = which == 75 ? 8 : which == 76 ? 7 : -1;
    return d < devices ? OK : INVALID;
}
int cudaMemGetInfo(size_t *f, size_t *t) {
    BEGIN("cudaMemGetInfo");
    *t = 8ul << 30;
    *f = *t - (size_t)counts[DEVICE];
    return OK;
}
int cudaDeviceReset(void) { resets++; lost = 0; return OK; }
int cudaMalloc(void **p, size_t n) {
    BEGIN("cudaMalloc");
    return recording ? (last_error = CAPTURE_UNSUPPORTED) : allocate(p, n, DEVICE);
}
int cudaFree(void *p) { int c = forget(p, DEVICE), f = fails("cudaFree"); return f ? f : c; }
int cudaHostAlloc(void **p, size_t n, unsigned flags) {
    BEGIN("cudaHostAlloc");
    return flags ? INVALID : allocate(p, n, HOST);
}
int cudaFreeHost(void *p) { int c = forget(p, HOST), f = fails("cudaFreeHost"); return f ? f : c; }
int cudaStreamCreateWithFlags(void **s, unsigned flags) {
    BEGIN("cudaStreamCreateWithFlags");
    return flags != 1 ? INVALID : allocate(s, 64, STREAM);
}
int cudaStreamDestroy(void *s) {
    int c = forget(s, STREAM), f = fails("cudaStreamDestroy");
    return f ? f : c;
}
int cudaStreamSynchronize(void *s) {
    BEGIN("cudaStreamSynchronize");
    if (recording_stream == s) return last_error = CAPTURE_UNSUPPORTED;
    return find(s, 1, STREAM) ? OK : INVALID;
}
int cudaMemcpyAsync(void *to, const void *from, size_t n, int direction, void *s) {
    BEGIN("cudaMemcpyAsync");
    if (direction != 1 && direction != 2) return last_error = BAD_DIRECTION;
    int target = direction == 1 ? DEVICE : HOST, source = direction == 1 ? HOST : DEVICE;
    if (!find(to, n, target) || !find(from, n, source)) return last_error = INVALID;
    return put(s, (Op){to, from, n, direction, 0});
}
int cudaStreamBeginCapture(void *s, int mode) {
    BEGIN("cudaStreamBeginCapture");
    if (mode != 1 || recording || !find(s, 1, STREAM)) return last_error = INVALID;
    recording = calloc(1, sizeof *recording);
    recording_stream = s;
    return OK;
}
int cudaStreamEndCapture(void *s, void **out) {
    if (recording_stream != s) return last_error = INVALID;
    Graph *graph = recording;
    recording = 0;
    recording_stream = 0;
    int code = fails("cudaStreamEndCapture");
    if (code) { free(graph); *out = 0; return code; }
    counts[GRAPH]++;
    *out = graph;
    return OK;
}
int cudaGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) {
    BEGIN("cudaGraphInstantiateWithFlags");
    if (flags || !graph) return last_error = INVALID;
    *out = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph));
    counts[EXEC]++;
    return OK;
}
int cudaGraphLaunch(void *exec, void *s) {
    BEGIN("cudaGraphLaunch");
    launches++;
    const Graph *graph = exec;
    for (int i = 0; i < graph->count; i++) put(s, graph->ops[i]);
    return OK;
}
int cudaGraphDestroy(void *graph) { free(graph); counts[GRAPH]--; return OK; }
int cudaGraphExecDestroy(void *exec) {
    free(exec);
    counts[EXEC]--;
    return fails("cudaGraphExecDestroy");
}
int cudaGetLastError(void) { int code = last_error; last_error = lost; return code; }
const char *cudaGetErrorName(int code) {
    switch (code) {
    case 2: return "cudaErrorMemoryAllocation";
    case 35: return "cudaErrorInsufficientDriver";
    case 100: return "cudaErrorNoDevice";
    case 700: return "cudaErrorIllegalAddress";
    case 719: return "cudaErrorLaunchFailure";
    case 900: return "cudaErrorStreamCaptureUnsupported";
    case 901: return "cudaErrorStreamCaptureInvalidated";
    default: return "cudaErrorOther";
    }
}
const char *cudaGetErrorString(int code) { (void)code; return "injected or found by the stub"; }

/* For the tests and for the fake TensorRT. */
void stub_fail(const char *name, int skip, int code, int is_lasting) {
    snprintf(fault_name, sizeof fault_name, "%s", name);
    fault_skip = skip;
    fault_code = code;
    fault_is_lasting = is_lasting;
}
void stub_heal(void) { fault_skip = -1; lost = 0; last_error = 0; devices = 1; }
void stub_set_devices(int n) { devices = n; }
long stub_live(int kind) { return counts[kind]; }
long stub_launches(void) { return launches; }
long stub_resets(void) { return resets; }
int stub_is_device(void *at, size_t size) { return find(at, size, DEVICE) != 0; }
int stub_enqueue(void *stream, Kernel kernel) { return put(stream, (Op){.kernel = kernel}); }
