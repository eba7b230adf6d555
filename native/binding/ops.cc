// One short function per operation: arguments in the order of binding.d.ts into the operation's parameters.
#include "binding/ops.h"

#include <algorithm>

#include "binding/args.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

void Fill(Info info) {
  Args args(info, "fill");
  FillParams p;
  p.dtype = args.Type();
  p.size = args.Count();
  p.value = args.Number();
  p.output = args.Write(p.dtype, {p.size});
  args.Submit(&Operations::Fill, p);
}

void Random(Info info) {
  Args args(info, "random");
  RandomParams p;
  p.dtype = args.Type();
  p.size = args.Count();
  p.distribution = args.Integer() == 0 ? Distribution::kNormal : Distribution::kUniform;
  p.scale = args.Number();
  p.seed = static_cast<uint64_t>(args.Integer());
  p.stream = static_cast<uint64_t>(args.Integer());
  p.output = args.Write(p.dtype, {p.size});
  args.Submit(&Operations::Random, p);
}

void Cast(Info info) {
  Args args(info, "cast");
  CastParams p;
  p.from = args.Type();
  p.to = args.Type();
  p.size = args.Count();
  p.input = args.Read(p.from, {p.size});
  p.output = args.Write(p.to, {p.size});
  args.Submit(&Operations::Cast, p);
}

// ---- SAS

ExpandShape ReadExpandShape(Args& args) {
  ExpandShape s;
  s.tokens = args.Size();
  s.heads = args.Size();
  s.head_dim = args.Size();
  s.sim_heads = args.Size();
  s.sim_head_dim = args.Size();
  s.kernel_size = args.Size();
  s.features = args.Flag();
  args.Expect(s.kernel_size % 2 == 1, "an odd kernel size");
  args.Expect(s.features || s.sim_head_dim == s.head_dim, "as many features as x has, without weights for them");
  return s;
}

// The weights, or the gradients of the weights: an array of four or, with features, eight buffers.
template <class Float>
ExpandTensors<Float> ReadExpandTensors(Args& args, const ExpandShape& s) {
  constexpr bool kWrite = !std::is_const_v<Float>;
  const Napi::Array list = args.List();
  if (list.Length() != (s.features ? 8u : 4u)) args.Fail("expected 8 weights with features, else 4");
  uint32_t next = 0;
  const auto take = [&](Shape shape) { return args.Operand(list[next++], shape, !kWrite, kWrite); };
  ExpandTensors<Float> w{};
  w.head_weight = take({s.sim_heads, s.heads, s.kernel_size});
  w.head_bias = take({s.sim_heads});
  w.head_residual_weight = take({s.sim_heads, s.sim_heads, s.kernel_size});
  w.head_residual_bias = take({s.sim_heads});
  if (!s.features) return w;
  w.feature_weight = take({s.sim_head_dim, s.head_dim});
  w.feature_bias = take({s.sim_head_dim});
  w.feature_residual_weight = take({s.sim_head_dim, s.sim_head_dim});
  w.feature_residual_bias = take({s.sim_head_dim});
  return w;
}

void Expand(Info info) {
  Args args(info, "expand");
  ExpandParams p;
  p.dtype = args.FloatType();
  const ExpandShape s = p.shape = ReadExpandShape(args);
  const bool naive = args.Flag();
  p.x = args.Read(p.dtype, {s.tokens, s.heads, s.head_dim});
  p.weights = ReadExpandTensors<const float>(args, s);
  p.output = args.Write(p.dtype, {s.tokens, s.sim_heads, s.sim_head_dim});
  args.Submit(naive ? &Operations::NaiveExpand : &Operations::Expand, p);
}

void ExpandBackward(Info info) {
  Args args(info, "expandBackward");
  ExpandBackwardParams p;
  p.dtype = args.FloatType();
  const ExpandShape s = p.shape = ReadExpandShape(args);
  const bool naive = args.Flag();
  p.grad_dtype = args.GradientType(p.dtype, !naive);
  p.grad_output = args.Read(p.grad_dtype, {s.tokens, s.sim_heads, s.sim_head_dim});
  p.x = args.Read(p.dtype, {s.tokens, s.heads, s.head_dim});
  p.weights = ReadExpandTensors<const float>(args, s);
  p.grad_x = args.Write(p.dtype, {s.tokens, s.heads, s.head_dim});
  p.gradients = ReadExpandTensors<float>(args, s);
  args.Submit(naive ? &Operations::NaiveExpandBackward : &Operations::ExpandBackward, p);
}

AttentionShape ReadAttentionShape(Args& args) {
  AttentionShape s;
  s.batch = args.Size();
  s.queries = args.Size();
  s.keys = args.Size();
  s.heads = args.Size();
  s.kv_heads = args.Size();
  args.Expect(s.heads % s.kv_heads == 0, "a number of heads that is a multiple of that of k and v");
  s.width = args.Size();
  s.value_width = args.Size();
  s.causal = args.Flag();
  s.scale = static_cast<float>(args.Number());
  return s;
}

void Attention(Info info) {
  Args args(info, "attention");
  AttentionParams p;
  p.dtype = args.FloatType();
  const AttentionShape s = p.shape = ReadAttentionShape(args);
  const bool naive = args.Flag();
  p.q = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Write(p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.log_sum_exp = args.WriteFloats({s.batch, s.heads, s.queries});
  args.Submit(naive ? &Operations::NaiveAttention : &Operations::Attention, p);
}

void AttentionMean(Info info) {
  Args args(info, "attentionMean");
  AttentionMeanParams p;
  p.dtype = args.FloatType();
  const AttentionShape s = p.shape = ReadAttentionShape(args);
  p.groups = args.Size();
  args.Expect(s.heads % p.groups == 0, "a number of heads that is a multiple of the groups");
  p.q = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Write(p.dtype, {s.batch, s.queries, s.heads / p.groups, s.value_width});
  args.Submit(&Operations::AttentionMean, p);
}

void AttentionBackward(Info info) {
  Args args(info, "attentionBackward");
  AttentionBackwardParams p;
  p.dtype = args.FloatType();
  const AttentionShape s = p.shape = ReadAttentionShape(args);
  const bool naive = args.Flag();
  p.grad_dtype = args.GradientType(p.dtype, !naive);
  p.grad_output = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.q = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.log_sum_exp = args.ReadFloats({s.batch, s.heads, s.queries});
  p.grad_q = args.Write(p.grad_dtype, {s.batch, s.queries, s.heads, s.width});
  p.grad_k = args.Write(p.grad_dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.grad_v = args.Write(p.grad_dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  args.Submit(naive ? &Operations::NaiveAttentionBackward : &Operations::AttentionBackward, p);
}

AggregateParams ReadAggregateShape(Args& args) {
  AggregateParams p{};
  p.dtype = args.FloatType();
  p.tokens = args.Size();
  p.heads = args.Size();
  p.sim_heads = args.Size();
  p.head_dim = args.Size();
  args.Expect(p.sim_heads % p.heads == 0, "a number of simulated heads that is a multiple of heads");
  return p;
}

void Aggregate(Info info) {
  Args args(info, "aggregate");
  AggregateParams p = ReadAggregateShape(args);
  p.input = args.Read(p.dtype, {p.tokens, p.sim_heads, p.head_dim});
  p.output = args.Write(p.dtype, {p.tokens, p.heads, p.head_dim});
  args.Submit(&Operations::Aggregate, p);
}

void AggregateBackward(Info info) {
  Args args(info, "aggregateBackward");
  AggregateParams p = ReadAggregateShape(args);
  p.input = args.Read(p.dtype, {p.tokens, p.heads, p.head_dim});
  p.output = args.Write(p.dtype, {p.tokens, p.sim_heads, p.head_dim});
  args.Submit(&Operations::AggregateBackward, p);
}

// ---- factors of latent and tensor-product attention

ConcatShape ReadConcatShape(Args& args) {
  ConcatShape s;
  s.tokens = args.Size();
  s.heads_a = args.Size();
  s.heads_b = args.Size();
  args.Expect(s.heads_a == s.heads_b || s.heads_a == 1 || s.heads_b == 1, "one number of heads, or one head");
  s.heads = std::max(s.heads_a, s.heads_b);
  s.width_a = args.Size();
  s.width_b = args.Size();
  return s;
}

void Concat(Info info) {
  Args args(info, "concat");
  ConcatParams p;
  p.dtype = args.FloatType();
  const ConcatShape s = p.shape = ReadConcatShape(args);
  p.a = args.Read(p.dtype, {s.tokens, s.heads_a, s.width_a});
  p.b = args.Read(p.dtype, {s.tokens, s.heads_b, s.width_b});
  p.output = args.Write(p.dtype, {s.tokens, s.heads, s.width_a + s.width_b});
  args.Submit(&Operations::Concat, p);
}

void ConcatBackward(Info info) {
  Args args(info, "concatBackward");
  ConcatBackwardParams p;
  p.dtype = args.FloatType();
  const ConcatShape s = p.shape = ReadConcatShape(args);
  p.grad_output = args.Read(p.dtype, {s.tokens, s.heads, s.width_a + s.width_b});
  p.grad_a = args.Write(p.dtype, {s.tokens, s.heads_a, s.width_a});
  p.grad_b = args.Write(p.dtype, {s.tokens, s.heads_b, s.width_b});
  args.Submit(&Operations::ConcatBackward, p);
}

TensorProductShape ReadTensorProductShape(Args& args) {
  TensorProductShape s;
  s.tokens = args.Size();
  s.rank = args.Size();
  s.heads = args.Size();
  s.width = args.Size();
  return s;
}

void TensorProduct(Info info) {
  Args args(info, "tensorProduct");
  TensorProductParams p;
  p.dtype = args.FloatType();
  const TensorProductShape s = p.shape = ReadTensorProductShape(args);
  p.head_factors = args.Read(p.dtype, {s.tokens, s.rank, s.heads});
  p.feature_factors = args.Read(p.dtype, {s.tokens, s.rank, s.width});
  p.output = args.Write(p.dtype, {s.tokens, s.heads, s.width});
  args.Submit(&Operations::TensorProduct, p);
}

void TensorProductBackward(Info info) {
  Args args(info, "tensorProductBackward");
  TensorProductBackwardParams p;
  p.dtype = args.FloatType();
  const TensorProductShape s = p.shape = ReadTensorProductShape(args);
  p.grad_output = args.Read(p.dtype, {s.tokens, s.heads, s.width});
  p.head_factors = args.Read(p.dtype, {s.tokens, s.rank, s.heads});
  p.feature_factors = args.Read(p.dtype, {s.tokens, s.rank, s.width});
  p.grad_head_factors = args.Write(p.dtype, {s.tokens, s.rank, s.heads});
  p.grad_feature_factors = args.Write(p.dtype, {s.tokens, s.rank, s.width});
  args.Submit(&Operations::TensorProductBackward, p);
}

// ---- training

void Linear(Info info) {
  Args args(info, "linear");
  LinearParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.input_width = args.Size();
  p.output_width = args.Size();
  p.x = args.Read(p.dtype, {p.rows, p.input_width});
  p.weight = args.ReadFloats({p.output_width, p.input_width});
  p.bias = args.ReadOptionalFloats({p.output_width});
  p.output = args.Write(p.dtype, {p.rows, p.output_width});
  args.Submit(&Operations::Linear, p);
}

void LinearBackward(Info info) {
  Args args(info, "linearBackward");
  LinearBackwardParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.input_width = args.Size();
  p.output_width = args.Size();
  p.grad_output = args.Read(p.dtype, {p.rows, p.output_width});
  p.x = args.Read(p.dtype, {p.rows, p.input_width});
  p.weight = args.ReadFloats({p.output_width, p.input_width});
  p.grad_x = args.Write(p.dtype, {p.rows, p.input_width});
  p.grad_weight = args.WriteFloats({p.output_width, p.input_width});
  p.grad_bias = args.WriteOptionalFloats({p.output_width});
  args.Submit(&Operations::LinearBackward, p);
}

void LayerNorm(Info info) {
  Args args(info, "layerNorm");
  LayerNormParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.width = args.Size();
  p.eps = static_cast<float>(args.Number());
  p.x = args.Read(p.dtype, {p.rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.bias = args.ReadFloats({p.width});
  p.output = args.Write(p.dtype, {p.rows, p.width});
  p.mean = args.WriteFloats({p.rows});
  p.rstd = args.WriteFloats({p.rows});
  args.Submit(&Operations::LayerNorm, p);
}

void LayerNormBackward(Info info) {
  Args args(info, "layerNormBackward");
  LayerNormBackwardParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.width = args.Size();
  p.grad_output = args.Read(p.dtype, {p.rows, p.width});
  p.x = args.Read(p.dtype, {p.rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.mean = args.ReadFloats({p.rows});
  p.rstd = args.ReadFloats({p.rows});
  p.grad_x = args.Write(p.dtype, {p.rows, p.width});
  p.grad_weight = args.WriteFloats({p.width});
  p.grad_bias = args.WriteFloats({p.width});
  args.Submit(&Operations::LayerNormBackward, p);
}

void RmsNorm(Info info) {
  Args args(info, "rmsNorm");
  RmsNormParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.width = args.Size();
  p.eps = static_cast<float>(args.Number());
  p.x = args.Read(p.dtype, {p.rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.output = args.Write(p.dtype, {p.rows, p.width});
  p.rstd = args.WriteFloats({p.rows});
  args.Submit(&Operations::RmsNorm, p);
}

void RmsNormBackward(Info info) {
  Args args(info, "rmsNormBackward");
  RmsNormBackwardParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.width = args.Size();
  p.grad_output = args.Read(p.dtype, {p.rows, p.width});
  p.x = args.Read(p.dtype, {p.rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.rstd = args.ReadFloats({p.rows});
  p.grad_x = args.Write(p.dtype, {p.rows, p.width});
  p.grad_weight = args.WriteFloats({p.width});
  args.Submit(&Operations::RmsNormBackward, p);
}

void Gelu(Info info) {
  Args args(info, "gelu");
  GeluParams p;
  p.dtype = args.FloatType();
  p.size = args.Size();
  p.tanh_approximation = args.Flag();
  p.x = args.Read(p.dtype, {p.size});
  p.output = args.Write(p.dtype, {p.size});
  args.Submit(&Operations::Gelu, p);
}

void GeluBackward(Info info) {
  Args args(info, "geluBackward");
  GeluBackwardParams p;
  p.dtype = args.FloatType();
  p.size = args.Size();
  p.tanh_approximation = args.Flag();
  p.grad_output = args.Read(p.dtype, {p.size});
  p.x = args.Read(p.dtype, {p.size});
  p.grad_x = args.Write(p.dtype, {p.size});
  args.Submit(&Operations::GeluBackward, p);
}

void Add(Info info) {
  Args args(info, "add");
  AddParams p;
  p.dtype = args.FloatType();
  p.size = args.Size();
  p.a = args.Read(p.dtype, {p.size});
  p.b = args.Read(p.dtype, {p.size});
  p.output = args.Write(p.dtype, {p.size});
  args.Submit(&Operations::Add, p);
}

void Embedding(Info info) {
  Args args(info, "embedding");
  EmbeddingParams p;
  p.dtype = args.FloatType();
  p.batch = args.Size();
  p.length = args.Size();
  p.width = args.Size();
  p.vocabulary = args.Size();
  p.positions = args.Count();
  p.tokens = args.ReadInts({p.batch, p.length});
  p.token_table = args.ReadFloats({p.vocabulary, p.width});
  p.position_table = args.ReadOptionalFloats({p.positions, p.width});
  args.Expect(p.position_table == nullptr || p.positions >= p.length, "a position for every token");
  p.output = args.Write(p.dtype, {p.batch, p.length, p.width});
  args.Submit(&Operations::Embedding, p);
}

void EmbeddingBackward(Info info) {
  Args args(info, "embeddingBackward");
  EmbeddingBackwardParams p;
  p.dtype = args.FloatType();
  p.batch = args.Size();
  p.length = args.Size();
  p.width = args.Size();
  p.vocabulary = args.Size();
  p.positions = args.Count();
  p.grad_output = args.Read(p.dtype, {p.batch, p.length, p.width});
  p.tokens = args.ReadInts({p.batch, p.length});
  p.grad_token_table = args.WriteFloats({p.vocabulary, p.width});
  p.grad_position_table = args.WriteOptionalFloats({p.positions, p.width});
  args.Expect(p.grad_position_table == nullptr || p.positions >= p.length, "a position for every token");
  args.Submit(&Operations::EmbeddingBackward, p);
}

void Rope(Info info) {
  Args args(info, "rope");
  RopeParams p;
  p.dtype = args.FloatType();
  p.batch = args.Size();
  p.length = args.Size();
  p.heads = args.Size();
  p.width = args.Size();
  args.Expect(p.width % 2 == 0, "an even width");
  p.base = args.Number();
  p.offset = args.Integer();
  p.interleaved = args.Flag();
  p.inverse = args.Flag();
  p.x = args.Read(p.dtype, {p.batch, p.length, p.heads, p.width});
  p.output = args.Write(p.dtype, {p.batch, p.length, p.heads, p.width});
  args.Submit(&Operations::Rope, p);
}

void CrossEntropy(Info info) {
  Args args(info, "crossEntropy");
  CrossEntropyParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.classes = args.Size();
  p.ignore_index = static_cast<int32_t>(args.Integer());
  p.logits = args.Read(p.dtype, {p.rows, p.classes});
  p.targets = args.ReadInts({p.rows});
  p.loss = args.WriteFloats({});
  p.log_sum_exp = args.WriteFloats({p.rows});
  args.Submit(&Operations::CrossEntropy, p);
}

void CrossEntropyBackward(Info info) {
  Args args(info, "crossEntropyBackward");
  CrossEntropyBackwardParams p;
  p.dtype = args.FloatType();
  p.rows = args.Size();
  p.classes = args.Size();
  p.ignore_index = static_cast<int32_t>(args.Integer());
  p.grad_loss = args.ReadFloats({});
  p.logits = args.Read(p.dtype, {p.rows, p.classes});
  p.targets = args.ReadInts({p.rows});
  p.log_sum_exp = args.ReadFloats({p.rows});
  p.grad_logits = args.Write(p.dtype, {p.rows, p.classes});
  args.Submit(&Operations::CrossEntropyBackward, p);
}

void ClipGradNorm(Info info) {
  Args args(info, "clipGradNorm");
  const Napi::Array gradients = args.List();
  const Napi::Array sizes = args.List();
  ClipGradNormParams p;
  const uint32_t count = gradients.Length();
  for (uint32_t i = 0; i < count; ++i) {
    const int64_t size = args.SizeOf(sizes[i]);
    p.gradients.push_back({args.Operand(gradients[i], {size}, true, true), size});
  }
  p.max_norm = static_cast<float>(args.Number());
  p.norm = args.WriteFloats({});
  args.Submit(&Operations::ClipGradNorm, std::move(p));
}

void AdamW(Info info) {
  Args args(info, "adamW");
  const Napi::Array states = args.List();
  AdamWParams p;
  const uint32_t count = states.Length();
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::Value value = states[i];
    if (!value.IsObject()) args.Fail("a state is not an object");
    const auto state = value.As<Napi::Object>();
    const int64_t size = args.SizeOf(state.Get("size"));
    const auto operand = [&](const char* name, bool write) {
      return args.Operand(state.Get(name), {size}, true, write);
    };
    AdamWParams::State s;
    s.parameter = operand("parameter", true);
    s.gradient = operand("gradient", false);
    s.first_moment = operand("firstMoment", true);
    s.second_moment = operand("secondMoment", true);
    s.size = size;
    p.states.push_back(s);
  }
  p.lr = args.Number();
  p.beta1 = args.Number();
  p.beta2 = args.Number();
  p.eps = args.Number();
  p.weight_decay = args.Number();
  p.step = args.Size();
  args.Submit(&Operations::AdamW, std::move(p));
}

}  // namespace

void ExportOps(Napi::Object exports) {
  Export<Fill>(exports, "fill");
  Export<Random>(exports, "random");
  Export<Cast>(exports, "cast");
  Export<Expand>(exports, "expand");
  Export<ExpandBackward>(exports, "expandBackward");
  Export<Attention>(exports, "attention");
  Export<AttentionMean>(exports, "attentionMean");
  Export<AttentionBackward>(exports, "attentionBackward");
  Export<Aggregate>(exports, "aggregate");
  Export<AggregateBackward>(exports, "aggregateBackward");
  Export<Concat>(exports, "concat");
  Export<ConcatBackward>(exports, "concatBackward");
  Export<TensorProduct>(exports, "tensorProduct");
  Export<TensorProductBackward>(exports, "tensorProductBackward");
  Export<Linear>(exports, "linear");
  Export<LinearBackward>(exports, "linearBackward");
  Export<LayerNorm>(exports, "layerNorm");
  Export<LayerNormBackward>(exports, "layerNormBackward");
  Export<RmsNorm>(exports, "rmsNorm");
  Export<RmsNormBackward>(exports, "rmsNormBackward");
  Export<Gelu>(exports, "gelu");
  Export<GeluBackward>(exports, "geluBackward");
  Export<Add>(exports, "add");
  Export<Embedding>(exports, "embedding");
  Export<EmbeddingBackward>(exports, "embeddingBackward");
  Export<Rope>(exports, "rope");
  Export<CrossEntropy>(exports, "crossEntropy");
  Export<CrossEntropyBackward>(exports, "crossEntropyBackward");
  Export<ClipGradNorm>(exports, "clipGradNorm");
  Export<AdamW>(exports, "adamW");
}

}  // namespace sas::binding
