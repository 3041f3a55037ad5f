// libcublasLt: ONNX Runtime makes a handle and does nothing with it.
#include "device.h"

#define UNUSED(name) \
  int name() { device::give_up("no such function", #name); }

extern "C" {

int cublasLtCreate(void** handle) {
  *handle = nullptr;
  return 0;
}

int cublasLtDestroy(void*) { return 0; }

UNUSED(cublasLtMatmul)
UNUSED(cublasLtMatmulAlgoConfigSetAttribute)
UNUSED(cublasLtMatmulAlgoGetHeuristic)
UNUSED(cublasLtMatmulAlgoInit)
UNUSED(cublasLtMatmulDescCreate)
UNUSED(cublasLtMatmulDescDestroy)
UNUSED(cublasLtMatmulDescSetAttribute)
UNUSED(cublasLtMatmulPreferenceCreate)
UNUSED(cublasLtMatmulPreferenceDestroy)
UNUSED(cublasLtMatmulPreferenceSetAttribute)
UNUSED(cublasLtMatrixLayoutCreate)
UNUSED(cublasLtMatrixLayoutDestroy)
UNUSED(cublasLtMatrixLayoutSetAttribute)
UNUSED(cublasLtMatrixTransform)
UNUSED(cublasLtMatrixTransformDescCreate)
UNUSED(cublasLtMatrixTransformDescDestroy)
}
