// SAS, attention and the products and joints around it: one short function per operation, arguments in the order of
// binding.d.ts into the operation's parameters.
#include <algorithm>
#include <optional>

#include "binding/args.h"
#include "binding/ops.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

// The weights, or the gradients of the weights: an array of four or, with features, eight buffers.
template <class Float>
ExpandTensors<Float> ReadExpandTensors(Args& args, ExpandShape& s) {
  constexpr bool kWrite = !std::is_const_v<Float>;
  const Napi::Array list = args.List(kWrite ? "gradients" : "weights");
  if constexpr (!kWrite) s.features = list.Length() == 8;
  args.Expect(list.Length() == (s.features ? 8 : 4), "8 weights with features, else 4");
  uint32_t next = 0;
  const auto take = [&](ExpectedShape shape) -> Float* {
    const Args::Entry entry{list[next], next};
    ++next;
    if constexpr (kWrite) {
      return args.WriteFloats(entry, shape);
    } else {
      return args.ReadFloats(entry, shape);
    }
  };
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

// With features, relu(C1) and relu(Z1) are kept beside Y only; without, neither Y nor relu(Z1) is needed.
void CheckKept(const Args& args, const ExpandShape& s, bool naive, bool head_relu, bool heads, bool feature_relu) {
  args.Expect(!naive || !(head_relu || heads || feature_relu), "nothing kept by the unfused pipeline");
  args.Expect(s.features ? heads || !(head_relu || feature_relu) : !(heads || feature_relu),
              "the heads kept with features, beside whatever else is kept, and not without");
}

void CheckExpandShape(const Args& args, const ExpandShape& s) {
  args.Expect(s.kernel_size % 2 == 1, "an odd kernel size");
  args.Expect(s.features || s.sim_head_dim == s.head_dim, "as many features as x has, without weights for them");
}

// The rotation of the output, by its base and offset; a base of null: none.
std::optional<RopeAngles> ReadExpandRope(Args& args, const ExpandShape& s, int64_t length, bool naive) {
  const std::optional<double> base = args.OptionalNumber();
  const int64_t offset = args.Integer();
  if (!base) return std::nullopt;
  args.Expect(!naive, "no rotation in the unfused pipeline");
  args.Expect(s.sim_head_dim % 2 == 0, "an even width");
  return RopeAngles{length, s.sim_head_dim, *base, offset};
}

void Expand(Info info) {
  Args args(info, "expand");
  ExpandParams p{};
  ExpandShape& s = p.shape;
  int64_t batch = 0, length = 0;
  p.x = args.Read(&p.dtype, {batch, length, s.heads, s.head_dim});
  s.tokens = batch * length;
  p.weights = ReadExpandTensors<const float>(args, s);
  p.output = args.Write(p.dtype, {batch, length, s.sim_heads, s.sim_head_dim});
  CheckExpandShape(args, s);
  p.kept.head_relu = args.WriteOptionalFloats({batch, length, s.sim_heads, s.head_dim});
  p.kept.heads = args.WriteOptionalFloats({batch, length, s.sim_heads, s.head_dim});
  p.kept.feature_relu = args.WriteOptionalFloats({batch, length, s.sim_heads, s.sim_head_dim});
  const bool naive = args.Flag();
  CheckKept(args, s, naive, p.kept.head_relu, p.kept.heads, p.kept.feature_relu);
  p.rope = ReadExpandRope(args, s, length, naive);
  args.Submit(naive ? &Operations::NaiveExpand : &Operations::Expand, p);
}

void ExpandBackward(Info info) {
  Args args(info, "expandBackward");
  ExpandBackwardParams p{};
  ExpandShape& s = p.shape;
  int64_t batch = 0, length = 0;
  p.grad_output = args.Read(&p.grad_dtype, {batch, length, s.sim_heads, s.sim_head_dim});
  p.x = args.Read(&p.dtype, {batch, length, s.heads, s.head_dim});
  s.tokens = batch * length;
  p.weights = ReadExpandTensors<const float>(args, s);
  p.grad_x = args.Write(p.dtype, {batch, length, s.heads, s.head_dim});
  p.gradients = ReadExpandTensors<float>(args, s);
  CheckExpandShape(args, s);
  p.kept.head_relu = args.ReadOptionalFloats({batch, length, s.sim_heads, s.head_dim});
  p.kept.heads = args.ReadOptionalFloats({batch, length, s.sim_heads, s.head_dim});
  p.kept.feature_relu = args.ReadOptionalFloats({batch, length, s.sim_heads, s.sim_head_dim});
  const bool naive = args.Flag();
  CheckKept(args, s, naive, p.kept.head_relu, p.kept.heads, p.kept.feature_relu);
  p.rope = ReadExpandRope(args, s, length, naive);
  args.ExpectGradientType(p.grad_dtype, p.dtype, !naive);
  args.Submit(naive ? &Operations::NaiveExpandBackward : &Operations::ExpandBackward, p);
}

void ReadAttentionScalars(Args& args, AttentionShape& s) {
  args.Expect(s.heads % s.kv_heads == 0, "a number of heads that is a multiple of that of k and v");
  s.causal = args.Flag();
  s.scale = static_cast<float>(args.Number());
}

void Attention(Info info) {
  Args args(info, "attention");
  AttentionParams p{};
  AttentionShape& s = p.shape;
  p.q = args.Read(&p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Write(p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.log_sum_exp = args.WriteLogSumExp({s.batch, s.heads, s.queries});
  ReadAttentionScalars(args, s);
  args.Submit(args.Flag() ? &Operations::NaiveAttention : &Operations::Attention, p);
}

// How many groups of heads are averaged into rows of that width.
int64_t GroupsOf(const Args& args, int64_t heads, int64_t head_dim, int64_t width) {
  const int64_t all = heads * head_dim;
  args.Expect(all % width == 0 && heads % (all / width) == 0,
              "a width of whole heads, whose number divides that of all");
  return all / width;
}

void AttentionMean(Info info) {
  Args args(info, "attentionMean");
  AttentionMeanParams p{};
  AttentionShape& s = p.shape;
  int64_t width = 0;
  p.q = args.Read(&p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Write(p.dtype, {s.batch, s.queries, width});
  ReadAttentionScalars(args, s);
  p.groups = GroupsOf(args, s.heads, s.value_width, width);
  args.Submit(&Operations::AttentionMean, p);
}

void AttentionBackward(Info info) {
  Args args(info, "attentionBackward");
  AttentionBackwardParams p{};
  AttentionShape& s = p.shape;
  p.grad_output = args.Read(&p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.q = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.width});
  p.k = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.v = args.Read(p.dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  p.output = args.Read(p.dtype, {s.batch, s.queries, s.heads, s.value_width});
  p.log_sum_exp = args.ReadFloats({s.batch, s.heads, s.queries});
  p.grad_q = args.Write(&p.grad_dtype, {s.batch, s.queries, s.heads, s.width});
  p.grad_k = args.Write(p.grad_dtype, {s.batch, s.keys, s.kv_heads, s.width});
  p.grad_v = args.Write(p.grad_dtype, {s.batch, s.keys, s.kv_heads, s.value_width});
  ReadAttentionScalars(args, s);
  const bool naive = args.Flag();
  args.ExpectGradientType(p.grad_dtype, p.dtype, !naive);
  args.Submit(naive ? &Operations::NaiveAttentionBackward : &Operations::AttentionBackward, p);
}

void Aggregate(Info info) {
  Args args(info, "aggregate");
  AggregateParams p{};
  Leading tokens;
  int64_t width = 0;
  p.input = args.Read(&p.dtype, {tokens, p.sim_heads, p.head_dim});
  p.output = args.Write(p.dtype, {tokens, width});
  p.tokens = tokens.size();
  p.heads = p.sim_heads / GroupsOf(args, p.sim_heads, p.head_dim, width);
  args.Submit(&Operations::Aggregate, p);
}

void AggregateBackward(Info info) {
  Args args(info, "aggregateBackward");
  AggregateParams p{};
  Leading tokens;
  int64_t width = 0;
  p.input = args.Read(&p.dtype, {tokens, width});
  p.output = args.Write(p.dtype, {tokens, p.sim_heads, p.head_dim});
  p.tokens = tokens.size();
  p.heads = p.sim_heads / GroupsOf(args, p.sim_heads, p.head_dim, width);
  args.Submit(&Operations::AggregateBackward, p);
}

// ---- factors of latent and tensor-product attention

// The joint tensor has the heads of the part with more of them and the features of both.
void CheckConcatShape(const Args& args, const ConcatShape& s, int64_t width) {
  args.Expect(s.heads_a == s.heads_b || s.heads_a == 1 || s.heads_b == 1, "one number of heads, or one head");
  args.Expect(s.heads == std::max(s.heads_a, s.heads_b), "the heads of the part with more of them");
  args.Expect(width == s.width_a + s.width_b, "the width of both parts together");
}

void Concat(Info info) {
  Args args(info, "concat");
  ConcatParams p{};
  ConcatShape& s = p.shape;
  Leading tokens;
  int64_t width = 0;
  p.a = args.Read(&p.dtype, {tokens, s.heads_a, s.width_a});
  p.b = args.Read(p.dtype, {tokens, s.heads_b, s.width_b});
  p.output = args.Write(p.dtype, {tokens, s.heads, width});
  s.tokens = tokens.size();
  CheckConcatShape(args, s, width);
  args.Submit(&Operations::Concat, p);
}

void ConcatBackward(Info info) {
  Args args(info, "concatBackward");
  ConcatBackwardParams p{};
  ConcatShape& s = p.shape;
  Leading tokens;
  int64_t width = 0;
  p.grad_output = args.Read(&p.dtype, {tokens, s.heads, width});
  p.grad_a = args.Write(p.dtype, {tokens, s.heads_a, s.width_a});
  p.grad_b = args.Write(p.dtype, {tokens, s.heads_b, s.width_b});
  s.tokens = tokens.size();
  CheckConcatShape(args, s, width);
  args.Submit(&Operations::ConcatBackward, p);
}

void TensorProduct(Info info) {
  Args args(info, "tensorProduct");
  TensorProductParams p{};
  TensorProductShape& s = p.shape;
  Leading tokens;
  p.head_factors = args.Read(&p.dtype, {tokens, s.rank, s.heads});
  p.feature_factors = args.Read(p.dtype, {tokens, s.rank, s.width});
  p.output = args.Write(p.dtype, {tokens, s.heads, s.width});
  s.tokens = tokens.size();
  args.Submit(&Operations::TensorProduct, p);
}

void TensorProductBackward(Info info) {
  Args args(info, "tensorProductBackward");
  TensorProductBackwardParams p{};
  TensorProductShape& s = p.shape;
  Leading tokens;
  p.grad_output = args.Read(&p.dtype, {tokens, s.heads, s.width});
  p.head_factors = args.Read(p.dtype, {tokens, s.rank, s.heads});
  p.feature_factors = args.Read(p.dtype, {tokens, s.rank, s.width});
  p.grad_head_factors = args.Write(p.dtype, {tokens, s.rank, s.heads});
  p.grad_feature_factors = args.Write(p.dtype, {tokens, s.rank, s.width});
  s.tokens = tokens.size();
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
