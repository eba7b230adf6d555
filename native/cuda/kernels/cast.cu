// output = input in another storage type, rounded to nearest even.
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

struct Identity {
  __device__ float operator()(float value) const { return value; }
};

}  // namespace

Status Cast(CudaContext& context, const CastParams& p) {
  return DispatchFloat(p.from, [&]<class From>(From*) {
    return DispatchFloat(p.to, [&]<class To>(To*) {
      return Map(context, p.size, Identity{}, static_cast<To*>(p.output), static_cast<const From*>(p.input));
    });
  });
}

}  // namespace sas::cuda
