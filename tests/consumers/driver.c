// Stands for a CUDA driver of the version DRIVER_VERSION that loads no module, for MODULE_ERROR.
#include <stdlib.h>

static int number(const char* name) {
    const char* text = getenv(name);
    return text ? atoi(text) : 0;
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = number("DRIVER_VERSION"), 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { return *value = 9, 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)16, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxGetCurrent(void** context) { return *context = (void*)16, 0; }
int cuCtxSetCurrent(void* context) { return 0; }
int cuThreadExchangeStreamCaptureMode(int* mode) { return 0; }
int cuModuleLoadData(void** module, const void* image) { return number("MODULE_ERROR"); }
int cuGetErrorName(int error, const char** name) {
    return *name = error == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "an error", 0;
}
int cuGetErrorString(int error, const char** text) { return *text = "of the stand-in", 0; }
