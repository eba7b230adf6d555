// Filling and converting: one short function per operation, arguments in the order of binding.d.ts into the operation's
// parameters.
#include "binding/args.h"
#include "binding/ops.h"

namespace sas::binding {
namespace {

using Info = const Napi::CallbackInfo&;

void Fill(Info info) {
  Args args(info, "fill", Operands::kAny);
  FillParams p{};
  Leading all;
  p.output = args.Write(&p.dtype, {all});
  p.size = all.size();
  p.value = args.Number();
  args.Submit(&Operations::Fill, p);
}

void Random(Info info) {
  Args args(info, "random", Operands::kAny);
  RandomParams p{};
  Leading all;
  p.output = args.Write(&p.dtype, {all});
  p.size = all.size();
  p.distribution = args.Integer() == 0 ? Distribution::kNormal : Distribution::kUniform;
  p.scale = args.Number();
  p.seed = static_cast<uint64_t>(args.Integer());
  p.stream = static_cast<uint64_t>(args.Integer());
  args.Submit(&Operations::Random, p);
}

void Cast(Info info) {
  Args args(info, "cast", Operands::kAny);
  CastParams p{};
  Leading all;
  p.input = args.Read(&p.from, {all});
  p.output = args.Write(&p.to, {all});
  p.size = all.size();
  args.Submit(&Operations::Cast, p);
}

}  // namespace

void ExportTensorOps(Napi::Object exports) {
  Export<Fill>(exports, "fill");
  Export<Random>(exports, "random");
  Export<Cast>(exports, "cast");
}

}  // namespace sas::binding
