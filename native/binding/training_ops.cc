// What the rest of a training step needs: one short function per operation, arguments in the order of binding.d.ts into
// the operation's parameters.
#include "binding/args.h"
#include "binding/ops.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

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
