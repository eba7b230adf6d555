// What the rest of a training step needs: one short function per operation, arguments in the order of binding.d.ts into
// the operation's parameters.
#include "binding/args.h"
#include "binding/ops.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

void Linear(Info info) {
  Args args(info, "linear");
  LinearParams p{};
  Leading rows;
  p.x = args.Read(&p.dtype, {rows, p.input_width});
  p.weight = args.ReadFloats({p.output_width, p.input_width});
  p.bias = args.ReadOptionalFloats({p.output_width});
  p.output = args.Write(p.dtype, {rows, p.output_width});
  p.rows = rows.size();
  args.Submit(&Operations::Linear, p);
}

void LinearBackward(Info info) {
  Args args(info, "linearBackward");
  LinearBackwardParams p{};
  Leading rows;
  p.grad_output = args.Read(&p.dtype, {rows, p.output_width});
  p.x = args.Read(p.dtype, {rows, p.input_width});
  p.weight = args.ReadFloats({p.output_width, p.input_width});
  p.grad_x = args.Write(p.dtype, {rows, p.input_width});
  p.grad_weight = args.WriteFloats({p.output_width, p.input_width});
  p.grad_bias = args.WriteOptionalFloats({p.output_width});
  p.rows = rows.size();
  args.Submit(&Operations::LinearBackward, p);
}

void LayerNorm(Info info) {
  Args args(info, "layerNorm");
  LayerNormParams p{};
  Leading rows;
  p.x = args.Read(&p.dtype, {rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.bias = args.ReadFloats({p.width});
  p.output = args.Write(p.dtype, {rows, p.width});
  p.mean = args.WriteFloats({rows.size()});
  p.rstd = args.WriteFloats({rows.size()});
  p.eps = static_cast<float>(args.Number());
  p.rows = rows.size();
  args.Submit(&Operations::LayerNorm, p);
}

void LayerNormBackward(Info info) {
  Args args(info, "layerNormBackward");
  LayerNormBackwardParams p{};
  Leading rows;
  p.grad_output = args.Read(&p.dtype, {rows, p.width});
  p.x = args.Read(p.dtype, {rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.mean = args.ReadFloats({rows.size()});
  p.rstd = args.ReadFloats({rows.size()});
  p.residual = args.ReadOptional(p.dtype, {rows, p.width});
  p.grad_x = args.Write(p.dtype, {rows, p.width});
  p.grad_weight = args.WriteFloats({p.width});
  p.grad_bias = args.WriteFloats({p.width});
  p.rows = rows.size();
  args.Submit(&Operations::LayerNormBackward, p);
}

void RmsNorm(Info info) {
  Args args(info, "rmsNorm");
  RmsNormParams p{};
  Leading rows;
  p.x = args.Read(&p.dtype, {rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.output = args.Write(p.dtype, {rows, p.width});
  p.rstd = args.WriteFloats({rows.size()});
  p.eps = static_cast<float>(args.Number());
  p.rows = rows.size();
  args.Submit(&Operations::RmsNorm, p);
}

void RmsNormBackward(Info info) {
  Args args(info, "rmsNormBackward");
  RmsNormBackwardParams p{};
  Leading rows;
  p.grad_output = args.Read(&p.dtype, {rows, p.width});
  p.x = args.Read(p.dtype, {rows, p.width});
  p.weight = args.ReadFloats({p.width});
  p.rstd = args.ReadFloats({rows.size()});
  p.grad_x = args.Write(p.dtype, {rows, p.width});
  p.grad_weight = args.WriteFloats({p.width});
  p.rows = rows.size();
  args.Submit(&Operations::RmsNormBackward, p);
}

void Gelu(Info info) {
  Args args(info, "gelu");
  GeluParams p{};
  Leading all;
  p.x = args.Read(&p.dtype, {all});
  p.output = args.Write(p.dtype, {all});
  p.size = all.size();
  p.tanh_approximation = args.Flag();
  args.Submit(&Operations::Gelu, p);
}

void GeluBackward(Info info) {
  Args args(info, "geluBackward");
  GeluBackwardParams p{};
  Leading all;
  p.grad_output = args.Read(&p.dtype, {all});
  p.x = args.Read(p.dtype, {all});
  p.grad_x = args.Write(p.dtype, {all});
  p.size = all.size();
  p.tanh_approximation = args.Flag();
  args.Submit(&Operations::GeluBackward, p);
}

void Add(Info info) {
  Args args(info, "add");
  AddParams p{};
  Leading all;
  p.a = args.Read(&p.dtype, {all});
  p.b = args.Read(p.dtype, {all});
  p.c = args.ReadOptional(p.dtype, {all});
  p.output = args.Write(p.dtype, {all});
  p.size = all.size();
  args.Submit(&Operations::Add, p);
}

void Embedding(Info info) {
  Args args(info, "embedding");
  EmbeddingParams p{};
  p.tokens = args.ReadInts({p.batch, p.length});
  p.token_table = args.ReadFloats({p.vocabulary, p.width});
  p.position_table = args.ReadOptionalFloats({p.positions, p.width});
  args.Expect(p.position_table == nullptr || p.positions >= p.length, "a position for every token");
  p.output = args.Write(&p.dtype, {p.batch, p.length, p.width});
  args.Submit(&Operations::Embedding, p);
}

void EmbeddingBackward(Info info) {
  Args args(info, "embeddingBackward");
  EmbeddingBackwardParams p{};
  p.grad_output = args.Read(&p.dtype, {p.batch, p.length, p.width});
  p.tokens = args.ReadInts({p.batch, p.length});
  p.grad_token_table = args.WriteFloats({p.vocabulary, p.width});
  p.grad_position_table = args.WriteOptionalFloats({p.positions, p.width});
  args.Expect(p.grad_position_table == nullptr || p.positions >= p.length, "a position for every token");
  args.Submit(&Operations::EmbeddingBackward, p);
}

void Rope(Info info) {
  Args args(info, "rope");
  RopeParams p{};
  p.x = args.Read(&p.dtype, {p.batch, p.length, p.heads, p.width});
  p.output = args.Write(p.dtype, {p.batch, p.length, p.heads, p.width});
  args.Expect(p.width % 2 == 0, "an even width");
  p.base = args.Number();
  p.offset = args.Integer();
  p.interleaved = args.Flag();
  p.inverse = args.Flag();
  args.Submit(&Operations::Rope, p);
}

void CrossEntropy(Info info) {
  Args args(info, "crossEntropy");
  CrossEntropyParams p{};
  Leading rows;
  p.logits = args.Read(&p.dtype, {rows, p.classes});
  p.targets = args.ReadInts({rows});
  p.loss = args.WriteFloats({});
  p.log_sum_exp = args.WriteLogSumExp({rows.size()});
  p.ignore_index = static_cast<int32_t>(args.Integer());
  p.rows = rows.size();
  args.Submit(&Operations::CrossEntropy, p);
}

void CrossEntropyBackward(Info info) {
  Args args(info, "crossEntropyBackward");
  CrossEntropyBackwardParams p{};
  Leading rows;
  p.grad_loss = args.ReadFloats({});
  p.logits = args.Read(&p.dtype, {rows, p.classes});
  p.targets = args.ReadInts({rows});
  p.log_sum_exp = args.ReadFloats({rows.size()});
  p.grad_logits = args.Write(p.dtype, {rows, p.classes});
  p.ignore_index = static_cast<int32_t>(args.Integer());
  p.rows = rows.size();
  args.Submit(&Operations::CrossEntropyBackward, p);
}

void ClipGradNorm(Info info) {
  Args args(info, "clipGradNorm");
  ClipGradNormParams p{};
  const Napi::Array gradients = args.List("gradients");
  for (uint32_t i = 0, count = gradients.Length(); i < count; ++i) {
    Leading all;
    float* data = args.UpdateFloats({gradients[i], i}, {all});
    p.gradients.push_back({data, all.size()});
  }
  p.norm = args.WriteFloats({});
  p.max_norm = static_cast<float>(args.Number());
  args.Submit(&Operations::ClipGradNorm, std::move(p));
}

void AdamW(Info info) {
  Args args(info, "adamW");
  AdamWParams p{};
  const Napi::Array lists[] = {args.List("states"), args.List("states"), args.List("states"), args.List("states")};
  const uint32_t count = lists[0].Length();
  for (const Napi::Array& list : lists) args.Expect(list.Length() == count, "as many tensors in each list");
  for (uint32_t i = 0; i < count; ++i) {
    Leading all;
    AdamWParams::State s;
    s.parameter = args.UpdateFloats({lists[0][i], i, "parameter"}, {all});
    s.gradient = args.ReadFloats({lists[1][i], i, "gradient"}, {all});
    s.first_moment = args.UpdateFloats({lists[2][i], i, "firstMoment"}, {all});
    s.second_moment = args.UpdateFloats({lists[3][i], i, "secondMoment"}, {all});
    s.size = all.size();
    p.states.push_back(s);
  }
  p.skipped = args.UpdateOptionalInts({});
  p.lr = args.Number();
  p.beta1 = args.Number();
  p.beta2 = args.Number();
  p.eps = args.Number();
  p.weight_decay = args.Number();
  p.step = args.Integer();
  args.Expect(p.step >= 1, "a step of at least 1");
  args.Submit(&Operations::AdamW, std::move(p));
}

}  // namespace

void ExportTrainingOps(Napi::Object exports) {
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
