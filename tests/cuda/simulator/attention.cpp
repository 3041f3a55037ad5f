#include "attention.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using half = _Float16;

// Where a matrix of heads lies: elements from a token to the next and from a head to the next.
template <typename T>
struct Heads {
  T* data;
  int64_t token, head;

  T* at(int64_t t, int64_t h) const { return data + t * token + h * head; }
};

template <typename T>
struct Attention {
  Heads<const T> query, key, value;
  Heads<T> output;
  const int32_t *query_starts, *key_starts;
  int32_t sequences, heads, size;
  float scale;
};

template <typename T>
void run(const Attention<T>& a) {
  std::vector<float> scores, sum(a.size);
  for (int32_t s = 0; s < a.sequences; ++s)
    for (int32_t h = 0; h < a.heads; ++h)
      for (int32_t q = a.query_starts[s]; q < a.query_starts[s + 1]; ++q) {
        const int32_t begin = a.key_starts[s], length = a.key_starts[s + 1] - begin;
        scores.assign(length, 0);
        const T* query = a.query.at(q, h);
        float most = -INFINITY, total = 0;
        for (int32_t k = 0; k < length; ++k) {
          const T* key = a.key.at(begin + k, h);
          for (int32_t i = 0; i < a.size; ++i) scores[k] += float(query[i]) * float(key[i]);
          scores[k] *= a.scale;
          most = std::fmax(most, scores[k]);
        }
        sum.assign(a.size, 0);
        for (int32_t k = 0; k < length; ++k) {
          const float weight = std::exp(scores[k] - most);
          total += weight;
          // The kernels round the weights to the type of the values for the second product.
          const float rounded = float(static_cast<T>(weight));
          const T* value = a.value.at(begin + k, h);
          for (int32_t i = 0; i < a.size; ++i) sum[i] += rounded * float(value[i]);
        }
        T* out = a.output.at(q, h);
        for (int32_t i = 0; i < a.size; ++i) out[i] = static_cast<T>(sum[i] / total);
      }
}

// As onnxruntime::flash::Flash_fwd_params of ONNX Runtime 1.31 begins.
struct FlashParameters {
  void *q, *k, *v;
  int64_t q_batch, k_batch, v_batch, q_row, k_row, v_row, q_head, k_head, v_head;
  int32_t h, h_k, h_h_k_ratio;
  void *o, *o_accumulated;
  int64_t o_batch, o_row, o_head;
  void *p, *lse, *lse_accumulated;
  int32_t b, seqlen_q, seqlen_k, seqlen_knew, d, seqlen_q_rounded, seqlen_k_rounded, d_rounded, rotary_dim, total_q;
  float scale_softmax, scale_softmax_log2, softcap;
  int32_t *cu_seqlens_q, *cu_seqlens_k;
};

// As AttentionKernel<...>::Params of ONNX Runtime 1.31 begins.
template <typename T>
struct EfficientParameters {
  T *q, *k, *v, *bias;
  int32_t *starts_q, *starts_k, *lengths_k;
  uint32_t causal_diagonal_offset;
  T* o;
  float *o_accumulated, *lse;
  int32_t window_size;
  float scale, softcap;
  int32_t size, size_v, queries, keys, keys_absolute;
  uint8_t mask;
  int32_t q_row, k_row, v_row, bias_row, o_row, q_head, k_head, v_head;
  int64_t bias_head, q_batch, k_batch, v_batch, bias_batch;
  int32_t sequences, heads;
};

}  // namespace

device::Work flash_attention(const void* parameters) {
  FlashParameters p;
  std::memcpy(&p, parameters, sizeof p);
  if (p.h != p.h_k || !p.cu_seqlens_q || !p.cu_seqlens_k) device::give_up("attention: not as BERT's", "flash");
  const Attention<half> attention{
      {static_cast<const half*>(p.q), p.q_row, p.q_head}, {static_cast<const half*>(p.k), p.k_row, p.k_head},
      {static_cast<const half*>(p.v), p.v_row, p.v_head}, {static_cast<half*>(p.o), p.o_row, p.o_head},
      p.cu_seqlens_q, p.cu_seqlens_k, p.b, p.h, p.d, p.scale_softmax};
  return [attention] { run(attention); };
}

template <typename T>
device::Work memory_efficient_attention(const void* parameters) {
  EfficientParameters<T> p;
  std::memcpy(&p, parameters, sizeof p);
  if (p.bias || p.lengths_k || p.mask || p.size != p.size_v || !p.starts_q || !p.starts_k)
    device::give_up("attention: not as BERT's", "memory efficient");
  const Attention<T> attention{{p.q, p.q_row, p.q_head}, {p.k, p.k_row, p.k_head},
                               {p.v, p.v_row, p.v_head}, {p.o, p.o_row, p.size_v},
                               p.starts_q, p.starts_k, p.sequences, p.heads, p.size, p.scale};
  return [attention] { run(attention); };
}

template device::Work memory_efficient_attention<float>(const void*);
template device::Work memory_efficient_attention<half>(const void*);
