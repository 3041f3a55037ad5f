// libcublas: matrix products on the host, in the order of the stream.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "device.h"

namespace {

using half = _Float16;

constexpr int kSuccess = 0, kExecutionFailed = 13;
constexpr int kTransposed = 1;                     // cublasOperation_t
constexpr int kFloat = 0, kHalf = 2;               // cudaDataType
constexpr int kComputeFloat = 68, kPedantic = 69;  // cublasComputeType_t: fp32 without TF32

struct Handle {
  void* stream = nullptr;
  int math_mode = 0;
};

// Column by column, as cuBLAS has it.
struct Product {
  bool transposes_a, transposes_b;
  int m, n, k;
  float alpha, beta;
  const void *a, *b;
  void* c;
  int lda, ldb, ldc;
};

template <typename T>
std::vector<float> widen(const void* source, bool transposes, int rows, int columns, int stride) {
  std::vector<float> wide(static_cast<size_t>(rows) * columns);
  const T* narrow = static_cast<const T*>(source);
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i)
      wide[j * rows + i] = float(transposes ? narrow[i * stride + j] : narrow[j * stride + i]);
  return wide;
}

template <typename T>
void multiply(const Product& p) {
  const auto a = widen<T>(p.a, p.transposes_a, p.m, p.k, p.lda), b = widen<T>(p.b, p.transposes_b, p.k, p.n, p.ldb);
  T* c = static_cast<T*>(p.c);
  std::vector<float> column(p.m);
  for (int64_t j = 0; j < p.n; ++j) {
    column.assign(p.m, 0);
    for (int64_t l = 0; l < p.k; ++l) {
      const float factor = b[j * p.k + l];
      const float* of_a = a.data() + l * p.m;
      for (int64_t i = 0; i < p.m; ++i) column[i] += factor * of_a[i];
    }
    T* out = c + j * p.ldc;
    // Where beta is 0 nothing is read: it may be anything.
    for (int64_t i = 0; i < p.m; ++i)
      out[i] = static_cast<T>(p.alpha * column[i] + (p.beta == 0 ? 0.0f : p.beta * float(out[i])));
  }
}

template <typename T>
int enqueue(void* handle, const Product& product) {
  if (device::failure()) return kExecutionFailed;
  device::take_time_of(2.0 * product.m * product.n * product.k);
  if (device::computes())
    device::enqueue(static_cast<Handle*>(handle)->stream, [product] { multiply<T>(product); });
  return kSuccess;
}

}  // namespace

extern "C" {

int cublasCreate_v2(void** handle) {
  *handle = new Handle;
  return kSuccess;
}

int cublasDestroy_v2(void* handle) {
  delete static_cast<Handle*>(handle);
  return kSuccess;
}

int cublasSetStream_v2(void* handle, void* stream) {
  static_cast<Handle*>(handle)->stream = stream;
  return kSuccess;
}

int cublasGetMathMode(void* handle, int* mode) {
  *mode = static_cast<Handle*>(handle)->math_mode;
  return kSuccess;
}

int cublasSetMathMode(void* handle, int mode) {
  static_cast<Handle*>(handle)->math_mode = mode;
  return kSuccess;
}

const char* cublasGetStatusName(int status) { return status ? "CUBLAS_STATUS_EXECUTION_FAILED" : "CUBLAS_STATUS_SUCCESS"; }

const char* cublasGetStatusString(int status) { return cublasGetStatusName(status); }

int cublasSgemm_v2(void* handle, int a_operation, int b_operation, int m, int n, int k, const float* alpha,
                   const float* a, int lda, const float* b, int ldb, const float* beta, float* c, int ldc) {
  constexpr int kTensorOp = 3;  // cublasMath_t: TF32
  if (static_cast<Handle*>(handle)->math_mode == kTensorOp) device::give_up("fp32 with the mantissa of TF32", __func__);
  return enqueue<float>(handle, {a_operation == kTransposed, b_operation == kTransposed, m, n, k, *alpha, *beta, a, b, c,
                                 lda, ldb, ldc});
}

int cublasGemmEx(void* handle, int a_operation, int b_operation, int m, int n, int k, const void* alpha, const void* a,
                 int a_type, int lda, const void* b, int b_type, int ldb, const void* beta, void* c, int c_type, int ldc,
                 int compute, int) {
  if (a_type != b_type || a_type != c_type) device::give_up("types of a product that differ", __func__);
  if (compute != kComputeFloat && compute != kPedantic) device::give_up("sums that are not taken in fp32", __func__);
  const Product product{a_operation == kTransposed, b_operation == kTransposed, m, n, k,
                        *static_cast<const float*>(alpha), *static_cast<const float*>(beta), a, b, c, lda, ldb, ldc};
  if (a_type == kHalf) return enqueue<half>(handle, product);
  if (a_type == kFloat) return enqueue<float>(handle, product);
  device::give_up("a product of a type that BERT has not", __func__);
}

#define UNUSED(name) \
  int name() { device::give_up("no such function", #name); }
UNUSED(cublasDgeam)
UNUSED(cublasDgemmBatched)
UNUSED(cublasDgemmStridedBatched)
UNUSED(cublasDgemm_v2)
UNUSED(cublasDgetrfBatched)
UNUSED(cublasDgetriBatched)
UNUSED(cublasGemmBatchedEx)
UNUSED(cublasGemmStridedBatchedEx)
UNUSED(cublasScopy_v2)
UNUSED(cublasSgeam)
UNUSED(cublasSgemmBatched)
UNUSED(cublasSgemmStridedBatched)
UNUSED(cublasSgetrfBatched)
UNUSED(cublasSgetriBatched)
UNUSED(cublasSscal_v2)
}
