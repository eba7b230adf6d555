// One plain parameter struct per operation: sizes, scalars and device pointers. Tensors are row-major and contiguous;
// the shape stands beside each pointer. `void*` operands have the struct's dtype, `float*` operands are f32 whatever
// the dtype (parameters, their gradients, and statistics).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/dtype.h"

namespace sas {

// ---- filling and converting

struct FillParams {
  DType dtype;
  int64_t size;
  double value;
  void* output;  // [size]
};

enum class Distribution : uint8_t { kNormal = 0, kUniform = 1 };

struct RandomParams {
  DType dtype;
  int64_t size;
  Distribution distribution;  // normal(0, 1) or uniform [-1, 1), times scale
  double scale;
  uint64_t seed, stream;
  void* output;  // [size]
};

struct CastParams {
  DType from, to;
  int64_t size;
  const void* input;  // [size]
  void* output;       // [size]
};

// ---- SAS (arXiv 2507.07694)

// The angles of a rotary position embedding: at position offset + t, t < length, pair i of width / 2 rotates by
// position
// * base^(-2 i / width).
struct RopeAngles {
  int64_t length, width;
  double base;
  int64_t offset;
};

struct ExpandShape {
  int64_t tokens;        // B * T: every token is expanded on its own
  int64_t heads;         // H
  int64_t head_dim;      // D
  int64_t sim_heads;     // H'
  int64_t sim_head_dim;  // D' with features, else D
  int64_t kernel_size;   // k, odd
  bool features;         // Q and K: also expand features; V: heads only
};

template <class Float>
struct ExpandTensors {
  Float* head_weight;              // [H', H, k]
  Float* head_bias;                // [H']
  Float* head_residual_weight;     // [H', H', k]
  Float* head_residual_bias;       // [H']
  Float* feature_weight;           // [D', D], null without features, as the next three
  Float* feature_bias;             // [D']
  Float* feature_residual_weight;  // [D', D']
  Float* feature_residual_bias;    // [D']
};
using ExpandWeights = ExpandTensors<const float>;
using ExpandGradients = ExpandTensors<float>;

// What the forward pass can keep for the backward pass, in f32; null: computed anew. With features, relu(C1) and
// relu(Z1) only beside Y; without, Y is not needed.
template <class Float>
struct ExpandIntermediates {
  Float* head_relu;     // relu(C1), [tokens, H', D]
  Float* heads;         // Y, [tokens, H', D]
  Float* feature_relu;  // relu(Z1), [tokens, H', D']
};

struct ExpandParams {
  DType dtype;
  ExpandShape shape;
  std::optional<RopeAngles> rope;  // rotates the output, in pairs of neighbours; length T, width D'
  const void* x;                   // [tokens, H, D]
  ExpandWeights weights;
  void* output;                     // [tokens, H', D']
  ExpandIntermediates<float> kept;  // all null: nothing is to be kept
};

struct ExpandBackwardParams {
  DType dtype;
  DType grad_dtype;  // of grad_output: dtype or f32
  ExpandShape shape;
  std::optional<RopeAngles> rope;  // as in the forward pass
  const void* grad_output;         // [tokens, H', D']
  const void* x;                   // [tokens, H, D]
  ExpandWeights weights;
  void* grad_x;  // [tokens, H, D]
  ExpandGradients gradients;
  ExpandIntermediates<const float> kept;  // by the forward pass, or all null
};

struct AttentionShape {
  int64_t batch;          // B
  int64_t queries, keys;  // Tq, Tk
  int64_t heads;          // Hq
  int64_t kv_heads;       // Hkv divides Hq: query head h reads key/value head h / (Hq / Hkv)
  int64_t width;          // of q and k
  int64_t value_width;    // of v and the output
  bool causal;            // query i sees keys j <= i + Tk - Tq
  float scale;
};

struct AttentionParams {
  DType dtype;
  AttentionShape shape;
  const void* q;       // [B, Tq, Hq, width]
  const void* k;       // [B, Tk, Hkv, width]
  const void* v;       // [B, Tk, Hkv, value_width]
  void* output;        // [B, Tq, Hq, value_width]
  float* log_sum_exp;  // [B, Hq, Tq], natural log; -inf where a query sees no key
};

struct AttentionBackwardParams {
  DType dtype;
  DType grad_dtype;  // of grad_q, grad_k and grad_v: dtype or f32
  AttentionShape shape;
  const void* grad_output;   // [B, Tq, Hq, value_width]
  const void* q;             // [B, Tq, Hq, width]
  const void* k;             // [B, Tk, Hkv, width]
  const void* v;             // [B, Tk, Hkv, value_width]
  const void* output;        // [B, Tq, Hq, value_width]
  const float* log_sum_exp;  // [B, Hq, Tq]
  void* grad_q;              // as q
  void* grad_k;              // as k
  void* grad_v;              // as v
};

// Attention and Aggregate in one: output head h is the mean over groups g of heads g * H + h, where H = Hq / groups.
struct AttentionMeanParams {
  DType dtype;
  AttentionShape shape;
  int64_t groups;  // divides Hq
  const void* q;   // [B, Tq, Hq, width]
  const void* k;   // [B, Tk, Hkv, width]
  const void* v;   // [B, Tk, Hkv, value_width]
  void* output;    // [B, Tq, H, value_width]
};

// Forward: output[t, h] = mean over groups g of input[t, g * heads + h]. Backward: each group gets input / groups.
struct AggregateParams {
  DType dtype;
  int64_t tokens, heads, sim_heads, head_dim;
  const void* input;  // forward [tokens, sim_heads, head_dim], backward [tokens, heads, head_dim]
  void* output;       // forward [tokens, heads, head_dim], backward [tokens, sim_heads, head_dim]
};

// ---- factors of latent (MLA) and tensor-product (TPA) attention

struct ConcatShape {
  int64_t tokens;            // B * T
  int64_t heads;             // H, the larger of the next two
  int64_t heads_a, heads_b;  // H or 1: the only head stands beside each of the other's
  int64_t width_a, width_b;
};

struct ConcatParams {
  DType dtype;
  ConcatShape shape;
  const void* a;  // [tokens, heads_a, width_a]
  const void* b;  // [tokens, heads_b, width_b]
  void* output;   // [tokens, heads, width_a + width_b]
};

struct ConcatBackwardParams {
  DType dtype;
  ConcatShape shape;
  const void* grad_output;  // [tokens, heads, width_a + width_b]
  void* grad_a;             // [tokens, heads_a, width_a]
  void* grad_b;             // [tokens, heads_b, width_b]
};

struct TensorProductShape {
  int64_t tokens;  // B * T
  int64_t rank;    // R
  int64_t heads;   // H
  int64_t width;   // D
};

// output[t, h, d] = 1/R * the sum over r of head_factors[t, r, h] * feature_factors[t, r, d].
struct TensorProductParams {
  DType dtype;
  TensorProductShape shape;
  const void* head_factors;     // [tokens, rank, heads]
  const void* feature_factors;  // [tokens, rank, width]
  void* output;                 // [tokens, heads, width]
};

struct TensorProductBackwardParams {
  DType dtype;
  TensorProductShape shape;
  const void* grad_output;      // [tokens, heads, width]
  const void* head_factors;     // [tokens, rank, heads]
  const void* feature_factors;  // [tokens, rank, width]
  void* grad_head_factors;      // [tokens, rank, heads]
  void* grad_feature_factors;   // [tokens, rank, width]
};

// ---- training

struct LinearParams {
  DType dtype;
  int64_t rows, input_width, output_width;
  const void* x;        // [rows, input_width]
  const float* weight;  // [output_width, input_width]
  const float* bias;    // [output_width] or null
  void* output;         // [rows, output_width]
};

struct LinearBackwardParams {
  DType dtype;
  int64_t rows, input_width, output_width;
  const void* grad_output;  // [rows, output_width]
  const void* x;            // [rows, input_width]
  const float* weight;      // [output_width, input_width]
  void* grad_x;             // [rows, input_width]
  float* grad_weight;       // [output_width, input_width]
  float* grad_bias;         // [output_width] or null
};

struct LayerNormParams {
  DType dtype;
  int64_t rows, width;
  float eps;
  const void* x;        // [rows, width]
  const float* weight;  // [width]
  const float* bias;    // [width]
  void* output;         // [rows, width]
  float* mean;          // [rows]
  float* rstd;          // [rows], 1 / sqrt(variance + eps)
};

struct LayerNormBackwardParams {
  DType dtype;
  int64_t rows, width;
  const void* grad_output;  // [rows, width]
  const void* x;            // [rows, width]
  const float* weight;      // [width]
  const float* mean;        // [rows]
  const float* rstd;        // [rows]
  void* grad_x;             // [rows, width]
  float* grad_weight;       // [width]
  float* grad_bias;         // [width]
  const void* residual;     // [rows, width], added to grad_x before it is rounded, or null
};

struct RmsNormParams {
  DType dtype;
  int64_t rows, width;
  float eps;
  const void* x;        // [rows, width]
  const float* weight;  // [width]
  void* output;         // [rows, width]
  float* rstd;          // [rows], 1 / sqrt(mean(x^2) + eps)
};

struct RmsNormBackwardParams {
  DType dtype;
  int64_t rows, width;
  const void* grad_output;  // [rows, width]
  const void* x;            // [rows, width]
  const float* weight;      // [width]
  const float* rstd;        // [rows]
  void* grad_x;             // [rows, width]
  float* grad_weight;       // [width]
};

struct GeluParams {
  DType dtype;
  int64_t size;
  bool tanh_approximation;  // else x * Phi(x) with erf
  const void* x;            // [size]
  void* output;             // [size]
};

struct GeluBackwardParams {
  DType dtype;
  int64_t size;
  bool tanh_approximation;
  const void* grad_output;  // [size]
  const void* x;            // [size]
  void* grad_x;             // [size]
};

struct AddParams {
  DType dtype;
  int64_t size;
  const void* a;  // [size]
  const void* b;  // [size]
  const void* c;  // [size] or null
  void* output;   // [size]
};

struct EmbeddingParams {
  DType dtype;
  int64_t batch, length, width, vocabulary, positions;
  const int32_t* tokens;        // [batch, length]
  const float* token_table;     // [vocabulary, width]
  const float* position_table;  // [positions, width] or null
  void* output;                 // [batch, length, width]
};

struct EmbeddingBackwardParams {
  DType dtype;
  int64_t batch, length, width, vocabulary, positions;
  const void* grad_output;     // [batch, length, width]
  const int32_t* tokens;       // [batch, length]
  float* grad_token_table;     // [vocabulary, width]
  float* grad_position_table;  // [positions, width] or null
};

// Rotary position embedding; the gradient is the inverse rotation.
struct RopeParams {
  DType dtype;
  int64_t batch, length, heads, width;
  double base;
  int64_t offset;    // position of the first row
  bool interleaved;  // pairs (2i, 2i+1), else (i, i + width/2)
  bool inverse;
  const void* x;  // [batch, length, heads, width]
  void* output;   // as x
};

struct CrossEntropyParams {
  DType dtype;
  int64_t rows, classes;
  int32_t ignore_index;
  const void* logits;      // [rows, classes]
  const int32_t* targets;  // [rows]
  float* loss;             // [], the mean over rows whose target is not ignored, 0 if there are none
  float* log_sum_exp;      // [rows]
};

struct CrossEntropyBackwardParams {
  DType dtype;
  int64_t rows, classes;
  int32_t ignore_index;
  const float* grad_loss;    // []
  const void* logits;        // [rows, classes]
  const int32_t* targets;    // [rows]
  const float* log_sum_exp;  // [rows]
  void* grad_logits;         // [rows, classes]
};

struct ClipGradNormParams {
  struct Gradient {
    float* data;  // [size]
    int64_t size;
  };
  std::vector<Gradient> gradients;
  float max_norm;
  float* norm;  // []
};

struct AdamWParams {
  struct State {
    float* parameter;       // [size]
    const float* gradient;  // [size]
    float* first_moment;    // [size]
    float* second_moment;   // [size]
    int64_t size;
  };
  std::vector<State> states;
  double lr, beta1, beta2, eps, weight_decay;
  int64_t step;      // 1-based
  int32_t* skipped;  // [] or null: if a gradient is not finite, add 1 here instead of the step
};

}  // namespace sas
