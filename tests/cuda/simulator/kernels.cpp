// Each kernel reads its arguments in the order of its signature, which the demangled name shows; what they mean is told by
// ONNX Runtime's operators. Sums are taken in fp32 and results rounded to the type of the output, as on a GPU.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "attention.h"

namespace {

using half = _Float16;
using device::Work;

struct Launch {
  const std::string& name;
  dim3 grid;
  void** arguments;

  template <typename T>
  T at(int i) const {
    T value;
    std::memcpy(&value, arguments[i], sizeof value);
    return value;
  }

  bool has(const char* text) const { return name.find(text) != std::string::npos; }
};

// Of ONNX Runtime's DivMod: a divisor, and numbers that make the division fast.
struct Divisor {
  int32_t value;
  uint32_t multiplier, shift;
};

float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }

template <typename T>
Work gather(const Launch& launch) {
  const auto input_block = launch.at<int64_t>(0), rows = launch.at<int64_t>(1);
  const auto output_block = launch.at<Divisor>(2).value, row_size = launch.at<Divisor>(3).value;
  const auto* indices = launch.at<const char*>(4);
  const auto index_size = launch.at<size_t>(5);
  const auto* input = launch.at<const T*>(6);
  auto* output = launch.at<T*>(7);
  const auto count = launch.at<int32_t>(8);
  return [=] {
    for (int32_t i = 0; i < count; ++i) {
      const int32_t block = i / output_block, within = i % output_block;
      const char* place = indices + index_size * (within / row_size);
      int64_t row = 0;
      if (index_size == sizeof(int32_t)) {
        int32_t narrow;
        std::memcpy(&narrow, place, sizeof narrow);
        row = narrow;
      } else {
        std::memcpy(&row, place, sizeof row);
      }
      // A GPU writes zeros here, and a wrong position would pass for an answer.
      if (row < 0 || row >= rows) device::give_up("gather: a row that is not there", std::to_string(row).c_str());
      output[i] = input[block * input_block + row * row_size + within % row_size];
    }
  };
}

template <typename T>
Work elementwise(const Launch& launch) {
  const auto* left = launch.at<const T*>(0);
  const auto* right = launch.at<const T*>(1);
  auto* output = launch.at<T*>(2);
  const auto count = launch.at<int32_t>(4);
  const bool each_left = launch.has("Simple<true"), each_right = launch.has("<true, true") || launch.has("<false, true");
  const bool adds = launch.has("OP_Add<"), divides = launch.has("OP_Div<");
  if (!adds && !divides && !launch.has("OP_Mul<")) device::give_up("no such operator", launch.name.c_str());
  return [=] {
    for (int32_t i = 0; i < count; ++i) {
      const float a = left[each_left ? i : 0], b = right[each_right ? i : 0];
      output[i] = static_cast<T>(adds ? a + b : divides ? a / b : a * b);
    }
  };
}

// A bias for each column, added to a matrix.
template <typename T>
Work add_by_column(const Launch& launch) {
  const auto* matrix = launch.at<const T*>(0);
  const auto* bias = launch.at<const T*>(1);
  const auto columns = launch.at<Divisor>(2).value;
  auto* output = launch.at<T*>(3);
  const auto count = launch.at<int32_t>(5);
  if (!launch.has("OP_Add<")) device::give_up("no such operator", launch.name.c_str());
  return [=] {
    for (int32_t i = 0; i < count; ++i) output[i] = static_cast<T>(float(matrix[i]) + float(bias[i % columns]));
  };
}

template <typename In, typename Out>
Work map(const Launch& launch, float (*function)(float)) {
  const auto* input = launch.at<const In*>(0);
  auto* output = launch.at<Out*>(1);
  const auto count = launch.at<int64_t>(3);
  return [=] {
    for (int64_t i = 0; i < count; ++i) output[i] = static_cast<Out>(function(float(input[i])));
  };
}

template <typename In, typename Out>
Work unary(const Launch& launch) {
  if (launch.has("OP_Cast<")) return map<In, Out>(launch, [](float x) { return x; });
  if (launch.has("OP_Gelu<")) return map<In, Out>(launch, gelu);
  if (launch.has("OP_Tanh<")) return map<In, Out>(launch, [](float x) { return std::tanh(x); });
  if (launch.has("OP_Sqrt<")) return map<In, Out>(launch, [](float x) { return std::sqrt(x); });
  if (launch.has("OP_Relu<")) return map<In, Out>(launch, [](float x) { return std::max(x, 0.0f); });
  device::give_up("no such operator", launch.name.c_str());
}

template <typename T>
Work broadcast_bias(const Launch& launch) {
  const auto* bias = launch.at<const T*>(0);
  auto* output = launch.at<T*>(1);
  const auto count = launch.at<int64_t>(2);
  const auto columns = launch.at<Divisor>(3).value;
  const auto row_stride = launch.at<int32_t>(4), column_stride = launch.at<int32_t>(5);
  return [=] {
    for (int64_t i = 0; i < count; ++i) output[i] = bias[i / columns * row_stride + i % columns * column_stride];
  };
}

void normalize(const float* row, int size, float epsilon, float* out) {
  double sum = 0, squares = 0;
  for (int i = 0; i < size; ++i) sum += row[i];
  const double mean = sum / size;
  for (int i = 0; i < size; ++i) squares += (row[i] - mean) * (row[i] - mean);
  const double scale = 1 / std::sqrt(squares / size + epsilon);
  for (int i = 0; i < size; ++i) out[i] = float((row[i] - mean) * scale);
}

template <typename T>
Work skip_layer_norm(const Launch& launch) {
  auto* output = launch.at<T*>(0);
  auto* sums = launch.at<T*>(1);
  const auto *input = launch.at<const T*>(2), *skip = launch.at<const T*>(3), *bias = launch.at<const T*>(4);
  const auto *gamma = launch.at<const T*>(5), *beta = launch.at<const T*>(6);
  const auto epsilon = launch.at<float>(7);
  const auto size = launch.at<int32_t>(8), skip_size = launch.at<int32_t>(9);
  const int64_t rows = launch.grid.x;
  return [=] {
    std::vector<float> row(size);
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < size; ++i) {
        const int64_t at = r * size + i;
        row[i] = float(input[at]) + float(skip[at % skip_size]) + (bias ? float(bias[i]) : 0.0f);
        if (sums) sums[at] = static_cast<T>(row[i]);
      }
      normalize(row.data(), size, epsilon, row.data());
      for (int i = 0; i < size; ++i)
        output[r * size + i] = static_cast<T>(row[i] * float(gamma[i]) + (beta ? float(beta[i]) : 0.0f));
    }
  };
}

Work layer_norm(const Launch& launch) {
  auto* output = launch.at<float*>(0);
  const auto* input = launch.at<const float*>(3);
  const auto rows = launch.at<int32_t>(4), size = launch.at<int32_t>(5);
  const auto epsilon = launch.at<float>(6);
  const auto *gamma = launch.at<const float*>(7), *beta = launch.at<const float*>(8);
  if (launch.at<int32_t>(9) || launch.at<void*>(10) || launch.at<void*>(11) || launch.at<void*>(12))
    device::give_up("layer norm: more than the norm", launch.name.c_str());
  return [=] {
    for (int64_t r = 0; r < rows; ++r) {
      float* out = output + r * size;
      normalize(input + r * size, size, epsilon, out);
      for (int i = 0; i < size; ++i) out[i] = out[i] * gamma[i] + (beta ? beta[i] : 0.0f);
    }
  };
}

// In fp16 the sum, the normal distribution's share and their product are each rounded.
template <typename T>
Work bias_gelu(const Launch& launch) {
  const auto size = launch.at<int64_t>(0);
  const auto *input = launch.at<const T*>(1), *bias = launch.at<const T*>(2);
  auto* output = launch.at<T*>(3);
  const int64_t rows = launch.grid.x;
  return [=] {
    for (int64_t i = 0; i < rows * size; ++i) {
      const T x = static_cast<T>(float(input[i]) + float(bias[i % size]));
      const T share = static_cast<T>(0.5f * (1.0f + std::erf(float(x) * 0.70710678f)));
      output[i] = static_cast<T>(float(x) * float(share));
    }
  };
}

// Three constants come first. In fp16 it works on pairs where it can, and rounds after every step.
template <typename T, int Width>
Work fast_gelu(const Launch& launch) {
  const auto a = launch.at<T>(0), b = launch.at<T>(1), c = launch.at<T>(2);
  const int64_t count = int64_t(launch.at<int32_t>(3)) * Width, size = int64_t(launch.at<int32_t>(4)) * Width;
  const auto *input = launch.at<const T*>(5), *bias = launch.at<const T*>(6);
  auto* output = launch.at<T*>(7);
  return [=] {
    const auto times = [](T x, T y) { return static_cast<T>(float(x) * float(y)); };
    const auto plus = [](T x, T y) { return static_cast<T>(float(x) + float(y)); };
    for (int64_t i = 0; i < count; ++i) {
      const T x = bias ? plus(input[i], bias[i % size]) : input[i];
      const T inner = times(x, plus(times(times(c, x), x), b));
      const T share = plus(a, times(a, static_cast<T>(std::tanh(float(inner)))));
      output[i] = times(x, share);
    }
  };
}

void softmax_row(const float* in, float* out, int size) {
  const float most = *std::max_element(in, in + size);
  double sum = 0;
  for (int i = 0; i < size; ++i) sum += out[i] = std::exp(in[i] - most);
  for (int i = 0; i < size; ++i) out[i] = float(out[i] / sum);
}

Work softmax_block(const Launch& launch) {
  auto* output = launch.at<float*>(0);
  const auto* input = launch.at<const float*>(1);
  const auto size = launch.at<int32_t>(2), input_stride = launch.at<int32_t>(3), output_stride = launch.at<int32_t>(4);
  const int64_t rows = launch.grid.x;
  return [=] {
    for (int64_t r = 0; r < rows; ++r) softmax_row(input + r * input_stride, output + r * output_stride, size);
  };
}

Work softmax_warp(const Launch& launch) {
  auto* output = launch.at<float*>(0);
  const auto* input = launch.at<const float*>(1);
  const auto rows = launch.at<int32_t>(2), stride = launch.at<int32_t>(3), size = launch.at<int32_t>(4);
  return [=] {
    for (int64_t r = 0; r < rows; ++r) softmax_row(input + r * stride, output + r * stride, size);
  };
}

void best_of_row(const float* row, int64_t size, int64_t k, float* values, int64_t* indices) {
  std::vector<int64_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + k, order.end(),
                    [row](int64_t a, int64_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
  for (int64_t i = 0; i < k; ++i) {
    indices[i] = order[i];
    values[i] = row[order[i]];
  }
}

// The first of its two kernels leaves candidates for the second, which here looks at everything.
Work small_top_k(const Launch& launch) {
  const auto* input = launch.at<const float*>(0);
  auto* values = launch.at<float*>(1);
  auto* indices = launch.at<int64_t*>(2);
  const auto size = launch.at<int64_t>(4), k = launch.at<int64_t>(5);
  const int64_t rows = launch.grid.x;
  return [=] {
    for (int64_t r = 0; r < rows; ++r) best_of_row(input + r * size, size, k, values + r * k, indices + r * k);
  };
}

// TArray<int64_t>: a length and eight numbers.
struct Shape {
  int32_t count;
  int64_t products[8];
};

// BitonicTopK and RadixTopK of the last axis.
Work top_k(const Launch& launch, int size_at) {
  const auto* input = launch.at<const float*>(0);
  auto* values = launch.at<float*>(1);
  auto* indices = launch.at<int64_t*>(2);
  const auto dimensions = launch.at<size_t>(4);
  const auto axis = launch.at<int32_t>(5);
  const auto k = launch.at<int64_t>(6), size = launch.at<int64_t>(size_at);
  if (axis != int32_t(dimensions) - 1) device::give_up("TopK: not of the last axis", launch.name.c_str());
  const int64_t rows = launch.grid.x;
  return [=] {
    for (int64_t r = 0; r < rows; ++r) best_of_row(input + r * size, size, k, values + r * k, indices + r * k);
  };
}

Work nothing() {
  return [] {};
}

}  // namespace

Work kernel(const std::string& name, dim3 grid, void** arguments) {
  const Launch launch{name, grid, arguments};
  const bool is_half = launch.has("__half") || launch.has("<short>") || launch.has("half_t");
  const auto typed = [&](Work (*narrow)(const Launch&), Work (*wide)(const Launch&)) {
    return is_half ? narrow(launch) : wide(launch);
  };
  if (launch.has("::_GatherKernel<short>")) return gather<int16_t>(launch);
  if (launch.has("::_GatherKernel<int>")) return gather<int32_t>(launch);
  if (launch.has("::_BinaryElementWiseSimple<")) return typed(elementwise<half>, elementwise<float>);
  if (launch.has("::_BinaryElementWiseRhsPerChannelBatch1<")) return typed(add_by_column<half>, add_by_column<float>);
  if (launch.has("::_UnaryElementWise<__half, float")) return unary<half, float>(launch);
  if (launch.has("::_UnaryElementWise<float, __half")) return unary<float, half>(launch);
  if (launch.has("::_UnaryElementWise<")) return typed(unary<half, half>, unary<float, float>);
  if (launch.has("::BroadcastBiasKernel<") && launch.has("int, false>"))
    return typed(broadcast_bias<half>, broadcast_bias<float>);
  if (launch.has("::SkipLayerNormKernel")) return typed(skip_layer_norm<half>, skip_layer_norm<float>);
  if (launch.has("::cuApplyLayerNorm<float, float, float, false>")) return layer_norm(launch);
  if (launch.has("BiasGeluKernel<")) return typed(bias_gelu<half>, bias_gelu<float>);
  if (launch.has("::FastGeluKernel<float")) return fast_gelu<float, 1>(launch);
  if (launch.has("::FastGeluKernel2<")) return fast_gelu<half, 2>(launch);
  if (launch.has("::FastGeluKernel<__half")) return fast_gelu<half, 1>(launch);
  if (launch.has("::softmax_block_forward<")) return softmax_block(launch);
  if (launch.has("::softmax_warp_forward<float, float, float") && launch.has("false>")) return softmax_warp(launch);
  if (launch.has("::PartialTopK<float>")) return nothing();
  if (launch.has("::FinalTopK<float>")) return small_top_k(launch);
  if (launch.has("::BitonicTopK<float>")) return top_k(launch, 10);
  if (launch.has("::RadixTopK<float")) return top_k(launch, 9);
  if (launch.has("flash::flash_fwd_kernel<")) return flash_attention(arguments[0]);
  if (launch.has("attention_kernel_batched_impl<AttentionKernel<float")) return memory_efficient_attention<float>(arguments[0]);
  if (launch.has("attention_kernel_batched_impl<AttentionKernel<")) return memory_efficient_attention<half>(arguments[0]);
  device::give_up("no such kernel", name.c_str());
}
