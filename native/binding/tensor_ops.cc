// Filling and converting: one short function per operation, arguments in the order of binding.d.ts into the operation's
// parameters.
#include "binding/args.h"
#include "binding/ops.h"

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

}  // namespace

void ExportTensorOps(Napi::Object exports) {
  Export<Fill>(exports, "fill");
  Export<Random>(exports, "random");
  Export<Cast>(exports, "cast");
}

}  // namespace sas::binding
