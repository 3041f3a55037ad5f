// What ONNX Runtime links against and BERT does without.
#include "device.h"

#define UNUSED(name) \
  int name() { device::give_up("no such function", #name); }

extern "C" {
UNUSED(cudaEventElapsedTime)
UNUSED(cudaEventRecordWithFlags)
UNUSED(cudaFreeAsync)
UNUSED(cudaGetDriverEntryPointByVersion)
UNUSED(cudaLaunchCooperativeKernel)
UNUSED(cudaLaunchHostFunc)
UNUSED(cudaLibraryGetKernel)
UNUSED(cudaLibraryLoadData)
UNUSED(cudaLibraryUnload)
UNUSED(cudaMallocFromPoolAsync)
UNUSED(cudaMemPoolCreate)
UNUSED(cudaMemPoolDestroy)
UNUSED(cudaMemPoolGetAttribute)
UNUSED(cudaMemPoolSetAttribute)
UNUSED(cudaMemPoolTrimTo)
UNUSED(cudaMemcpy2DAsync)
UNUSED(cudaMemcpyFromSymbol)
}
