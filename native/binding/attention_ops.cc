// SAS, attention and the products and joints around it: one short function per operation, arguments in the order of
// binding.d.ts into the operation's parameters.
#include <algorithm>
#include <optional>

#include "binding/args.h"
#include "binding/ops.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

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

// The rotation of the output: length (0: none), base and offset.
std::optional<RopeAngles> ReadExpandRope(Args& args, const ExpandShape& s, bool naive) {
  RopeAngles rope;
  rope.length = args.Count();
  rope.width = s.sim_head_dim;
  rope.base = args.Number();
  rope.offset = args.Integer();
  if (rope.length == 0) return std::nullopt;
  args.Expect(!naive, "no rotation in the unfused pipeline");
  args.Expect(s.tokens % rope.length == 0, "a number of tokens that is a multiple of the length");
  args.Expect(rope.width % 2 == 0, "an even width");
  return rope;
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
  p.rope = ReadExpandRope(args, s, naive);
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
  p.rope = ReadExpandRope(args, s, naive);
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

}  // namespace

void ExportAttentionOps(Napi::Object exports) {
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
}

}  // namespace sas::binding
